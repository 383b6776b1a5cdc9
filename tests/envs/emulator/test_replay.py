import numpy as np
import pytest
from numba import njit

from envs.cluster import Request
from envs.emulator import fleet
from envs.emulator.replay import Ledger, Stream, replay
from envs.emulator.rules import least_in_flight, round_robin, uniform_random

from .invariants import check_idle, check_memory

GROUPS = {
    "a": {"profile": "h100_llama-3.1-8b", "num_blocks": 300, "max_num_seqs": 8, "max_model_len": 2048},
    "b": {"profile": "l40s_llama-3.1-8b", "num_blocks": 150, "max_num_seqs": 16, "max_model_len": 2048},
    "c": {"profile": "a100_llama-3.1-8b", "num_blocks": 200, "max_model_len": 2048, "prefix_caching": False},
}
FIELDS = ("first_token_at_s", "finished_at_s", "num_cached_tokens", "num_preemptions")


def stream_of(seed, num_requests=600, requests_per_s=20.0):
    rng = np.random.default_rng(seed)
    num_prompt_tokens = rng.integers(1, 1000, num_requests)
    hashes = []
    for number, num_tokens in enumerate(num_prompt_tokens):  # every other request has hashes, in 5 families
        num_shared = rng.integers(0, 30)
        own = rng.integers(1, 1 << 60, num_tokens // 16)
        own[:num_shared] = 1000 * (number % 5) + 1 + np.arange(len(own))[:num_shared]
        hashes.append(own if number % 2 else own[:0])
    return Stream(
        arrived_at_s=np.cumsum(rng.exponential(1 / requests_per_s, num_requests)),
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=rng.integers(1, 200, num_requests),
        hashes=np.concatenate(hashes),
        hash_offsets=np.cumsum([0, *map(len, hashes)]),
    )


def pieces(stream, num_requests):
    for first in range(0, len(stream.arrived_at_s), num_requests):
        last = min(first + num_requests, len(stream.arrived_at_s))
        offsets = stream.hash_offsets[first : last + 1]
        columns = (column[first:last] for column in stream[:3])
        yield Stream(*columns, stream.hashes[offsets[0] : offsets[-1]], offsets - offsets[0])


def driven(cluster, stream, choose):
    """The ledger of a cluster that Python drives; ``choose`` sees the requests in flight per instance."""
    cluster.reset()
    num = len(stream.arrived_at_s)
    in_flight = np.zeros(len(cluster.traits), int)
    ledger = Ledger(*(np.empty(num, kind) for kind in (int, float, float, int, int)))

    def settle(events):
        for done in events.completions:
            ledger.instance[done.request_id] = done.instance_index
            in_flight[done.instance_index] -= 1
            for name in FIELDS:
                getattr(ledger, name)[done.request_id] = getattr(done, name)

    for number in range(num):
        settle(cluster.advance_to(stream.arrived_at_s[number]))
        offsets = stream.hash_offsets[number : number + 2]
        sizes = (int(stream.num_prompt_tokens[number]), int(stream.num_output_tokens[number]))
        request = Request(number, stream.arrived_at_s[number], *sizes, stream.hashes[offsets[0] : offsets[1]])
        index = choose(number, in_flight)
        in_flight[index] += 1
        cluster.submit(request, index)
    settle(cluster.drain())
    return ledger


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("rule", "choose"),
    [
        (round_robin, lambda number, in_flight: number % 3),
        (least_in_flight, lambda number, in_flight: int(np.argmin(in_flight))),
    ],
)
def test_replay_is_what_submit_and_advance_to_give(rule, choose):
    stream = stream_of(1)
    cluster = fleet.cluster(GROUPS, step_log_rows=200_000)
    expected = driven(cluster, stream, choose)
    log, now_s = cluster.take_step_log(), cluster.now_s
    assert expected.num_preemptions.any()
    assert expected.num_cached_tokens.any()
    ledger = replay(cluster, [stream], rule)
    assert same(ledger, expected)
    assert cluster.now_s == now_s
    replayed = cluster.take_step_log()
    for index in range(3):
        assert replayed[replayed["instance"] == index].tobytes() == log[log["instance"] == index].tobytes()
    check_idle(cluster.state)
    check_memory(cluster.state)
    assert same(replay(cluster, pieces(stream, 70), rule), expected)


def test_the_seed_decides_what_a_random_rule_does():
    stream, cluster = stream_of(2), fleet.cluster(GROUPS)
    first = replay(cluster, [stream], uniform_random, seed=5)
    assert same(first, replay(cluster, [stream], uniform_random, seed=5))
    assert not same(first, replay(cluster, [stream], uniform_random, seed=6))
    rng = np.random.default_rng(5)
    assert same(first, driven(cluster, stream, lambda number, in_flight: int(rng.random() * 3)))


def test_room_grows_with_what_is_in_flight():
    stream = stream_of(3, num_requests=3000, requests_per_s=1e5)
    cluster = fleet.cluster(GROUPS)
    ledger = replay(cluster, [stream], least_in_flight)
    assert np.isfinite(ledger.finished_at_s).all()
    assert len(cluster.state.requests) == 4096
    assert not cluster.num_in_flight
    assert same(ledger, replay(cluster, [stream], least_in_flight))


def test_memory_does_not_grow_with_the_stream():
    stream = stream_of(4, num_requests=5000, requests_per_s=2.0)
    cluster = fleet.cluster(GROUPS)
    replay(cluster, pieces(stream, 500), least_in_flight)
    assert len(stream.hashes) > len(cluster.state.hashes)  # packed, not grown
    assert (len(cluster.state.requests), len(cluster.state.hashes)) == (1024, 1 << 16)


def test_no_requests():
    cluster = fleet.cluster(GROUPS)
    empty = Stream(*(np.empty(0, kind) for kind in (float, int, int, int)), np.zeros(1, int))
    for streams in ([], [empty]):
        assert all(len(column) == 0 for column in replay(cluster, streams, round_robin))


@njit
def beyond(state, slot, rng):
    return state.instances.shape[0]


def test_refuses_an_instance_that_does_not_exist():
    with pytest.raises(IndexError, match="the rule chose an instance that does not exist"):
        replay(fleet.cluster(GROUPS), [stream_of(1, 3)], beyond)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("arrived_at_s", [2.0, 1.0], "arrivals must not fall"),
        ("arrived_at_s", [-1.0, 1.0], "arrivals must not fall"),
        ("arrived_at_s", [0.0, np.nan], "arrivals must not fall"),
        ("num_prompt_tokens", [0, 5], "at least 1 prompt"),
        ("num_prompt_tokens", [5, 2048], "a prompt of 2048 tokens"),
        ("num_output_tokens", [0, 5], "1 output token"),
        ("hashes", [0], "not positive"),
    ],
)
def test_refuses_a_bad_stream(field, value, message):
    stream = Stream(np.arange(2.0), np.array([9, 9]), np.array([2, 2]), np.array([7]), np.array([0, 0, 1]))
    replay(fleet.cluster(GROUPS), [stream], round_robin)
    with pytest.raises(ValueError, match=message):
        replay(fleet.cluster(GROUPS), [stream._replace(**{field: np.array(value)})], round_robin)
