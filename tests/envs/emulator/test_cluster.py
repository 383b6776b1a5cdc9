import numpy as np
import pytest

from envs.cluster import Events
from envs.emulator.cluster import EmulatedCluster

from .invariants import check_idle, check_memory
from .toy import TICK_S, request, toy_cluster, toy_instance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 3}, "instance 0: 3 blocks of 4 tokens cannot hold one request of max_model_len 16"),
        ({"num_blocks": 0}, "instance 0: num_blocks is 0, it must be at least 1"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens is 0"),
        ({"max_model_len": 0}, "max_model_len is 0"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold"),
        ({"watermark": 1.0}, "watermark"),
        ({"block_size": 0}, "block_size is 0"),
        ({"scrape_interval_s": 0.0}, "scrape_interval_s is 0.0"),
        ({"scrape_interval_s": -1.0}, "scrape_interval_s is -1.0"),
        ({"scrape_interval_s": float("nan")}, "scrape_interval_s is nan"),
        ({"scrape_interval_s": float("inf")}, "scrape_interval_s is inf"),
    ],
)
def test_refuses_an_engine_that_could_not_run(options, message):
    with pytest.raises(ValueError, match=message):
        toy_cluster(**options)


def test_refuses_to_be_empty():
    with pytest.raises(ValueError, match="at least one instance"):
        EmulatedCluster([])


@pytest.mark.parametrize("index", [-1, 1])
def test_refuses_an_instance_that_does_not_exist(index):
    with pytest.raises(IndexError, match=f"instance {index} does not exist: the cluster has 1"):
        toy_cluster().submit(request(0, 0, 4, 1), index)


@pytest.mark.parametrize(
    ("num_prompt_tokens", "num_output_tokens", "message"),
    [
        (0, 1, "request 5 has 0 prompt and 1 output tokens"),
        (4, 0, "request 5 has 4 prompt and 0 output tokens"),
        (16, 1, "request 5 has 16 prompt tokens, instance 0 takes fewer than its max_model_len of 16"),
    ],
)
def test_refuses_a_request_it_could_not_serve(num_prompt_tokens, num_output_tokens, message):
    cluster = toy_cluster()
    with pytest.raises(ValueError, match=message):
        cluster.submit(request(5, 0, num_prompt_tokens, num_output_tokens), 0)
    assert cluster.num_in_flight == 0


@pytest.mark.parametrize("bad", [0, -1, -7])
def test_refuses_hashes_that_are_not_positive(bad):
    cluster = toy_cluster()
    with pytest.raises(ValueError, match="request 5 has block hashes that are not positive"):
        cluster.submit(request(5, 0, 8, 1, (3, bad)), 0)
    assert cluster.num_in_flight == 0
    assert cluster.drain() == Events([], [])


def test_an_answer_is_cut_at_max_model_len():
    cluster = toy_cluster()
    cluster.submit(request(0, 0, 15, 9), 0)
    (done,) = cluster.drain().completions
    assert done.num_output_tokens == 1


@pytest.mark.parametrize("time_s", [0.5, float("nan"), float("inf")])
def test_refuses_instants_that_it_cannot_reach(time_s):
    cluster = toy_cluster()
    cluster.advance_to(1.0)
    with pytest.raises(ValueError, match="cannot advance to"):
        cluster.advance_to(time_s)
    assert cluster.now_s == 1.0
    assert cluster.advance_to(1.0) == Events([], [])


def test_a_request_submitted_when_a_step_begins_joins_it():
    cluster = toy_cluster()
    cluster.submit(request(0, 0, 4, 2), 0)  # step 0 ends at 14 ticks
    cluster.advance_to(14 * TICK_S)
    cluster.submit(request(1, 14, 4, 1), 0)
    cluster.drain()
    assert cluster.take_step_log()["step"].tolist() == [0, 1, 1]


def test_stop_at_completion():
    cluster = EmulatedCluster([toy_instance(), toy_instance()], block_size=4)
    cluster.submit(request(0, 0, 4, 1), 0)  # done at 14 ticks
    cluster.submit(request(1, 0, 8, 1), 1)  # done at 18 ticks
    cluster.submit(request(2, 0, 6, 2), 0)  # with request 0: step 0 takes 20 ticks, step 1 takes 11
    assert cluster.advance_to(10 * TICK_S, stop_at_completion=True) == Events([], [])
    assert cluster.now_s == 10 * TICK_S
    for request_id, tick in ((1, 18), (0, 20), (2, 31)):
        events = cluster.advance_to(np.inf, stop_at_completion=True)
        assert [done.request_id for done in events.completions] == [request_id]
        assert cluster.now_s == tick * TICK_S
    assert cluster.advance_to(np.inf, stop_at_completion=True) == Events([], [])
    assert cluster.now_s == 31 * TICK_S  # nothing in flight: no time passes
    cluster.advance_to(1.0, stop_at_completion=True)
    assert cluster.now_s == 1.0


def test_drain_ends_at_the_last_completion():
    cluster = toy_cluster()
    cluster.submit(request(0, 0, 4, 3), 0)
    events = cluster.drain()
    assert [event.at_s / TICK_S for event in events.first_tokens] == [14]
    assert [done.finished_at_s / TICK_S for done in events.completions] == [36]
    assert cluster.now_s == 36 * TICK_S
    check_idle(cluster.state)


def test_gauges_may_be_those_of_the_last_step_that_ended():
    cluster = toy_cluster(scrape_interval_s=TICK_S, max_num_seqs=1, gauges_at_steps=True)
    # Steps end at 18 (prompt of 8), 29 and 40 (a token each), where the first is done, and 54 (prompt of 4).
    cluster.submit(request(0, 0, 8, 3), 0)
    cluster.advance_to(5 * TICK_S)
    cluster.submit(request(1, 5, 4, 1), 0)  # while the first step runs: unseen before the second has ended
    seen = {}
    for ticks in (10, 20, 30, 41, 55):
        cluster.advance_to(ticks * TICK_S)
        snapshot = cluster.snapshot()
        gauges = snapshot.num_running, snapshot.num_waiting, 64 * snapshot.frac_kv_cache_usage
        seen[ticks] = tuple(gauge.item() for gauge in gauges)
    assert seen == {10: (0, 0, 0), 20: (1, 0, 2), 30: (1, 1, 3), 41: (0, 1, 0), 55: (0, 0, 0)}


def test_snapshot_is_as_old_as_the_last_scrape():
    cluster = toy_cluster(scrape_interval_s=32 * TICK_S, num_blocks=8)

    def seen():
        snapshot = cluster.snapshot()
        assert snapshot.healthy.all()
        return (
            snapshot.num_running.item(),
            snapshot.num_waiting.item(),
            snapshot.frac_kv_cache_usage.item(),
            snapshot.age_s.item() / TICK_S,
        )

    assert seen() == (0, 0, 0.0, 0)
    cluster.advance_to(8 * TICK_S)
    cluster.submit(request(0, 8, 8, 6), 0)  # prefill ends at 8 + 18 = 26, decodes at 37, 48, 59, 70, 81
    assert seen() == (0, 0, 0.0, 8)
    cluster.advance_to(31 * TICK_S)
    assert seen() == (0, 0, 0.0, 31)
    cluster.advance_to(32 * TICK_S)
    assert seen() == (1, 0, 3 / 8, 0)  # the step at 26 took a third block for token 9
    cluster.submit(request(1, 32, 4, 1), 0)
    cluster.advance_to(33 * TICK_S)
    assert seen() == (1, 0, 3 / 8, 1)
    cluster.advance_to(63 * TICK_S)
    assert seen() == (1, 0, 3 / 8, 31)
    cluster.advance_to(1000 * TICK_S)  # many scrapes later: the last was at 31 x 32 = 992
    assert seen() == (0, 0, 0.0, 8)
    cluster.reset()
    assert seen() == (0, 0, 0.0, 0)


@pytest.mark.parametrize("interval_s", [0.05, 0.1, 0.3, 1 / 3])
def test_no_snapshot_is_older_than_the_scrape_interval(interval_s):
    cluster = toy_cluster(scrape_interval_s=interval_s)
    for number in range(2, 400):
        cluster.reset()
        due_s = number * interval_s
        for time_s, scrape in ((np.nextafter(due_s, 0.0), number - 1), (due_s, number)):
            cluster.advance_to(time_s)
            assert cluster.snapshot().age_s.item() == time_s - scrape * interval_s


def test_an_old_snapshot_stays_as_it_was():
    cluster = toy_cluster(scrape_interval_s=TICK_S)
    cluster.submit(request(0, 0, 8, 6), 0)
    cluster.advance_to(2 * TICK_S)
    snapshot = cluster.snapshot()
    cluster.drain()
    assert snapshot.num_running.item() == 1
    assert cluster.snapshot().num_running.item() == 0


def test_thousands_in_flight():
    rng = np.random.default_rng(0)
    cluster = toy_cluster(num_blocks=8192, max_num_seqs=64, max_model_len=128, step_log_rows=0)
    num_requests = 3000
    served, num_hashes = set(), 0
    for round_ in range(3):  # slots grow in the first, hashes are packed in all
        start_s = cluster.now_s
        for number in range(num_requests):
            request_id = round_ * num_requests + number
            hashes = rng.integers(1, 1 << 60, 30)
            num_hashes += len(hashes)
            cluster.submit(request(request_id, start_s / TICK_S, 120, 2, hashes), 0)
        assert cluster.num_in_flight == num_requests
        done = cluster.drain().completions
        assert sorted(row.request_id for row in done) == list(
            range(round_ * num_requests, (round_ + 1) * num_requests)
        )
        served.update(row.request_id for row in done)
    assert len(served) == 3 * num_requests
    assert num_hashes > len(cluster.state.hashes) > 1 << 16  # packed as well as grown
    check_idle(cluster.state)


def test_packing_hashes_keeps_each_request_its_own():
    cluster = toy_cluster(num_blocks=64, max_num_seqs=1, max_model_len=128, step_log_rows=0)
    size = len(cluster.state.hashes)
    for number in range(size // 32):  # all but the last few are done when the room runs out
        cluster.submit(request(number, 0, 124, 1, 1 + number * 100 + np.arange(32)), 0)
        cluster.drain() if number < size // 32 - 3 else None
    cluster.submit(request(-5, 0, 124, 1, 1 + np.arange(31) + (size // 32 - 1) * 100), 0)
    assert len(cluster.state.hashes) == size
    assert [row.num_cached_tokens for row in cluster.drain().completions] == [0, 0, 0, 30 * 4]


def test_hits_of_the_same_blocks_do_not_fill_the_free_queue():
    cluster = toy_cluster(num_blocks=64, step_log_rows=0)
    assert cluster.state.free_queue.shape == (128,)
    cluster.submit(request(0, 0, 13, 1, (5, 6, 7)), 0)
    cluster.drain()
    for number in range(1, 100):  # each leaves 3 gaps behind and takes 3 places more
        cluster.submit(request(number, 0, 13, 1, (5, 6, 7)), 0)
        assert cluster.drain().completions[0].num_cached_tokens == 12
        check_memory(cluster.state)
    check_idle(cluster.state)


def test_exact_hits():
    configs = [toy_instance(), toy_instance(), toy_instance(prefix_caching=False)]
    cluster = EmulatedCluster(configs, block_size=4)
    cluster.submit(request(0, 0, 12, 2, (5, 6, 7)), 0)
    cluster.submit(request(1, 0, 8, 2, (5, 6)), 1)
    cluster.submit(request(2, 0, 12, 2, (5, 6, 7)), 2)
    cluster.drain()
    for num_prompt_tokens, hashes, hits in (
        (15, (5, 6, 7), [12, 8, 0]),
        (12, (5, 6, 7), [8, 8, 0]),  # the last token is always computed
        (13, (5, 6, 7), [12, 8, 0]),
        (15, (5, 9, 7), [4, 4, 0]),
        (15, (), [0, 0, 0]),
        (4, (5,), [0, 0, 0]),
    ):
        asked = request(9, 0, num_prompt_tokens, 1, hashes)
        assert cluster.num_exact_hit_tokens(asked).tolist() == hits
    cluster.reset()
    assert cluster.num_exact_hit_tokens(request(9, 0, 15, 1, (5, 6, 7))).tolist() == [0, 0, 0]


def test_a_full_step_log_says_so():
    cluster = toy_cluster(step_log_rows=2)
    cluster.submit(request(0, 0, 4, 5), 0)
    with pytest.raises(RuntimeError, match="step log is full"):
        cluster.drain()


def test_traits():
    (traits,) = toy_cluster(max_num_batched_tokens=1024).traits
    assert (traits.name, traits.num_blocks, traits.block_size) == ("toy-0", 64, 4)
    assert (traits.max_num_seqs, traits.max_num_batched_tokens, traits.max_model_len) == (8, 1024, 16)
    assert traits.prefill_tokens_per_s == 2048 / ((2 * 10 + 2048) * TICK_S)
    assert traits.decode_step_s == 26 * TICK_S
