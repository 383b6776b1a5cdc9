"""LiveCluster against fast stand-ins for vLLM: what is sent, stamped, told and counted."""

import json
import logging
import time
from math import inf, isnan

import msgpack
import numpy as np
import pytest
import zmq

from envs.cluster import Cluster, Request
from envs.live import fleet
from envs.live.limits import Limits

from .advance import advance_until, undisturbed
from .fake_vllm import FakeVllm, fakes
from .leaks import nothing_left, soon

NO_PROFILE_NEEDED = {"max_num_seqs": 8}


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.fixture
def servers():
    with fakes(2) as both:
        yield both


@pytest.fixture
def cluster(servers):
    live = fleet.cluster({"a": servers[0].url, "b": servers[1].url})
    live.reset(np.random.default_rng(0))
    yield live
    live.close()


def test_it_is_a_cluster(cluster):
    seam: Cluster = cluster
    assert not seam.repeatable
    assert [trait.name for trait in seam.traits] == ["a", "b"]
    for name in ("submit", "advance_to", "drain", "snapshot", "counters", "num_exact_hit_tokens", "close"):
        assert callable(getattr(seam, name))


def test_traits_are_the_servers_the_profiles_and_the_configurations(servers):
    servers[0].max_model_len = 1000
    entry = {"url": servers[0].url, "profile": "h100_llama-3.1-8b", "max_num_seqs": 7, "num_blocks": 99}
    live = fleet.cluster({"a": entry | {"prefix_caching": False}, "b": servers[1].url, "c": None})
    a, b = live.traits
    assert (a.num_blocks, a.block_size, a.max_model_len, a.max_num_seqs) == (99, 16, 1000, 7)
    assert not a.prefix_caching
    assert a.prefill_tokens_per_s > 1000
    assert 0 < a.decode_step_s < 0.1
    assert (b.num_blocks, b.max_model_len, b.prefix_caching) == (511, 4096, True)  # the null block
    assert (b.prefill_tokens_per_s, b.decode_step_s) == (0.0, 0.0)  # nobody says


def test_a_request_is_sent_once_as_vllm_takes_it(servers, cluster):
    hashes = np.arange(1, 8)
    cluster.submit(Request(5, 0.0, 100, 20, hashes, priority=3), 1)
    (done,) = cluster.drain().completions
    assert not servers[0].bodies
    (body,) = servers[1].bodies
    assert len(body["prompt"]) == 100
    assert body["prompt"] == cluster._prompts.tokens(Request(5, 0.0, 100, 20, hashes))
    assert (body["model"], body["max_tokens"], body["ignore_eos"], body["temperature"]) == (
        "tiny",
        20,
        True,
        0,
    )
    assert body["stream"]
    assert body["stream_options"] == {"include_usage": True}
    assert body["return_token_ids"]  # the seventh block is the answer's
    assert "priority" not in body
    assert servers[1].headers[0]["x-request-id"].startswith(body["cache_salt"])
    assert "authorization" not in servers[1].headers[0]
    assert (done.request_id, done.instance_index, done.arrived_at_s) == (5, 1, 0.0)
    assert (done.num_prompt_tokens, done.num_output_tokens, done.num_cached_tokens) == (100, 20, 0)
    assert done.num_preemptions == 0
    assert not done.failure
    follow_up = Request(6, cluster.now_s, 120, 1, hashes)
    assert cluster._prompts.tokens(follow_up)[96:112] == [*body["prompt"][96:], *range(100, 112)]


def test_options_of_an_endpoint(servers, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    servers[0].api_key = "sk-secret"
    entry = {"url": servers[0].url + "/v1/", "api": "chat", "priority": True, "api_key_env": "MY_KEY"}
    live = fleet.cluster({"a": entry})
    try:
        live.reset()
        live.submit(Request(1, 0.0, 30, 4, np.arange(1, 4), priority=-2), 0)
        (done,) = live.drain().completions
    finally:
        live.close()
    (body,) = servers[0].bodies
    assert body["priority"] == -2
    assert len(body["messages"][0]["content"].split()) == 30
    assert "prompt" not in body
    assert servers[0].headers[0]["authorization"] == "Bearer sk-secret"
    assert done.num_prompt_tokens == 35  # the server's template adds its own
    assert done.num_output_tokens == 4
    assert "sk-secret" not in repr(live.endpoints) + repr(vars(live))


def test_what_was_measured_is_what_the_server_did(servers, cluster):
    servers[0].ttft_s, servers[0].token_interval_s = 0.1, 0.02

    def is_right():
        cluster.reset()
        cluster.submit(Request(0, 0.0, 16, 11), 0)
        events = cluster.drain()
        (token,), (done,) = events.first_tokens, events.completions
        stamps = servers[0].token_at[-1]
        assert token.at_s == done.first_token_at_s
        assert done.ttft_s > 0.09
        assert cluster.now_s >= done.finished_at_s
        return (
            done.ttft_s == pytest.approx(0.1, abs=0.05)
            and done.e2e_s - done.ttft_s == pytest.approx(stamps[-1] - stamps[0], abs=0.02)
            and done.tpot_s == pytest.approx(0.02, abs=0.01)
        )

    assert undisturbed(is_right)


def test_every_duration_is_in_cluster_seconds(servers):
    servers[0].ttft_s, servers[0].token_interval_s = 0.1, 0.02
    live = fleet.cluster({"a": servers[0].url}, speed_factor=0.1, scrape_interval_s=0.01)

    def is_right():
        live.reset()
        began = time.monotonic()
        live.advance_to(0.03)
        passed_s = time.monotonic() - began
        live.submit(Request(0, 0.03, 16, 11), 0)
        (done,) = live.drain().completions
        return (
            passed_s == pytest.approx(0.3, abs=0.05)
            and done.ttft_s == pytest.approx(0.01, abs=0.005)
            and done.tpot_s == pytest.approx(0.002, abs=0.001)
            and live.snapshot().age_s[0] < 0.03
        )

    try:
        assert undisturbed(is_right)
    finally:
        live.close()


def test_a_slow_reader_delays_no_stamp(servers, cluster):
    servers[0].ttft_s, servers[0].token_interval_s = 0.05, 0.02

    def is_right():
        cluster.reset()
        cluster.submit(Request(0, 0.0, 16, 11), 0)
        time.sleep(1.5)
        assert cluster.lag_s > 1.4
        assert cluster.advance_to(0.01).first_tokens == []  # nothing had come then
        events = cluster.advance_to(0.15)
        assert cluster.now_s == 0.15
        (done,) = [*events.completions, *cluster.drain().completions]
        return (
            len(events.first_tokens) == 1
            and done.ttft_s == pytest.approx(0.05, abs=0.03)
            and done.e2e_s == pytest.approx(0.25, abs=0.05)
            and cluster.now_s < 0.4
        )

    assert undisturbed(is_right)


def test_time_passes_as_the_protocol_says(cluster):
    cluster.advance_to(0.05)
    assert cluster.now_s == 0.05
    assert cluster.advance_to(inf, stop_at_completion=True) == ([], [])
    assert cluster.now_s == 0.05
    for at_s in (0.04, inf, np.nan):
        with pytest.raises(ValueError, match="cannot advance to"):
            cluster.advance_to(at_s)
    for number in range(3):
        cluster.submit(Request(number, 0.05, 16, 3 + 40 * number), number % 2)
    assert cluster.num_in_flight == 3
    seen = []
    while cluster.num_in_flight:
        passed = cluster.advance_to(60.0, stop_at_completion=True)
        assert len(passed.completions) == 1
        assert passed.completions[0].finished_at_s <= cluster.now_s < 5.0
        seen += [done.request_id for done in passed.completions]
    assert seen == [0, 1, 2]
    assert cluster.drain() == ([], [])


def test_what_cannot_be_served_is_refused(servers, cluster):
    with pytest.raises(IndexError, match="instance 2 does not exist: the cluster has 2"):
        cluster.submit(Request(0, 0.0, 16, 3), 2)
    with pytest.raises(ValueError, match="request 0 has 4096 prompt tokens, instance 1 takes fewer"):
        cluster.submit(Request(0, 0.0, 4096, 3), 1)
    cluster.submit(Request(0, 0.0, 4090, 300), 1)
    cluster.drain()
    assert servers[1].bodies[0]["max_tokens"] == 6  # cut at max_model_len
    assert cluster.counters()["num_submitted"] == 1


def test_large_prompts(servers):
    servers[0].max_model_len = 1_000_000
    live = fleet.cluster({"a": servers[0].url})
    try:
        live.reset()
        live.submit(Request(0, 0.0, 400_000, 3, np.arange(1, 25002)), 0)
        (done,) = live.drain().completions
        assert (done.failure, done.num_prompt_tokens) == ("", 400_000)
    finally:
        live.close()


@pytest.mark.parametrize("framing", ["crlf", "bytes", "one_write", "comments"])
def test_however_events_are_cut(servers, cluster, framing):
    servers[0].framing = framing
    for number in range(3):
        cluster.submit(Request(number, cluster.now_s, 20, 9), 0)
        (done,) = cluster.drain().completions
        assert (done.failure, done.num_output_tokens) == ("", 9)


def test_snapshots_hold_what_was_known_then(servers, cluster):
    before = {"waiting": "0.0", "usage": "0.25", "queries": "0.0", "hits": "0.0"}

    def is_right():
        servers[0].metrics = before
        cluster.reset()
        assert cluster.snapshot().age_s.tolist() == [0.0, 0.0]
        servers[0].metrics = {"waiting": "4.0", "usage": "0.5", "queries": "200.0", "hits": "50.0"}
        cluster.advance_to(0.05)
        assert cluster.snapshot().age_s.tolist() == [0.05, 0.05]
        assert cluster.snapshot().num_waiting.tolist() == [0, 0]
        time.sleep(0.3)
        cluster.advance_to(0.06)  # the clock is ahead; what was scraped since is not known yet
        assert cluster.snapshot().num_waiting.tolist() == [0, 0]
        cluster.advance_to(0.29)
        snapshot = cluster.snapshot()
        assert snapshot.healthy.all()
        return (
            snapshot.num_waiting.tolist() == [4, 0]
            and snapshot.frac_kv_cache_usage.tolist() == [0.5, 0.25]
            and snapshot.frac_prefix_hits.tolist() == [0.25, 0.0]
            and (snapshot.age_s < 0.15).all()
        )

    assert undisturbed(is_right)


def test_prefix_hits_count_from_the_episodes_start_and_a_servers_restart(servers, cluster):
    servers[0].metrics = {"queries": "1000.0", "hits": "900.0"}
    cluster.reset()
    servers[0].metrics = {"queries": "1100.0", "hits": "925.0"}
    advance_until(cluster, lambda: cluster.snapshot().frac_prefix_hits[0] == 0.25)
    servers[0].metrics = {"queries": "10.0", "hits": "5.0"}
    advance_until(cluster, lambda: cluster.snapshot().frac_prefix_hits[0] == 0.5)


def test_prefix_hits_count_from_the_first_good_scrape(servers, cluster):
    servers[0].metrics, servers[0].metrics_status = {"queries": "1000.0", "hits": "900.0"}, 404
    cluster.reset()
    cluster.advance_to(0.15)
    servers[0].metrics_status = 200
    advance_until(cluster, lambda: cluster.snapshot().age_s[0] < cluster.now_s)
    assert cluster.snapshot().frac_prefix_hits[0] == 0.0
    servers[0].metrics = {"queries": "1100.0", "hits": "925.0"}
    advance_until(cluster, lambda: cluster.snapshot().frac_prefix_hits[0] == 0.25)


def test_each_router_scrapes_for_itself(servers, cluster):
    # At 0.5 it was router 0's turn, the others' a quarter of 0.1 s earlier each.
    expected = [0.015, 0.09, 0.065, 0.04]

    def is_right():
        cluster.reset(num_routers=4)
        began = servers[0].num_scrapes
        cluster.advance_to(0.515)
        ages_s = [cluster.snapshot(router).age_s[0] for router in range(4)]
        num_scrapes = servers[0].num_scrapes - began
        return num_scrapes == pytest.approx(20, abs=3) and ages_s == pytest.approx(expected, abs=0.02)

    assert undisturbed(is_right)
    with pytest.raises(ValueError, match="num_routers is 0"):
        cluster.reset(num_routers=0)


def test_a_reset_cancels_and_begins_anew(servers, cluster):
    servers[0].ttft_s = 60.0
    servers[1].token_interval_s = 0.05
    for number in range(6):
        cluster.submit(Request(number, 0.0, 16, 400), number % 2)
    cluster.advance_to(0.2)
    salt = servers[0].bodies[0]["cache_salt"]
    began = time.monotonic()
    cluster.reset(np.random.default_rng(0))
    assert time.monotonic() - began < 30.0  # and not until what was under way had answered
    assert servers[0].num_running == servers[1].num_running == 0
    assert soon(lambda: servers[0].num_aborted == servers[1].num_aborted == 3)
    assert cluster.now_s == 0.0
    assert cluster.num_in_flight == 0
    assert cluster.counters()["num_submitted"] == 0
    assert cluster.advance_to(0.2) == ([], [])  # nothing of the former episode
    servers[0].ttft_s = 0.01
    cluster.submit(Request(0, 0.2, 16, 3), 0)
    (done,) = cluster.drain().completions
    assert not done.failure
    assert servers[0].bodies[-1]["cache_salt"] != salt  # also of the same seed
    ids = [headers["x-request-id"] for server in servers for headers in server.headers]
    assert len(set(ids)) == len(ids) == 7


def test_caches_are_emptied_where_the_server_can(servers, cluster):
    assert cluster.counters()["num_prefix_caches_reset"] == 0
    servers[1].dev_mode = True
    cluster.reset()
    assert cluster.counters()["num_prefix_caches_reset"] == 1
    assert servers[1].num_resets == 1


def test_prompts_follow_the_seed_and_only_what_is_private_differs(servers, cluster):
    prompts = []
    for seed in (0, 0, 1):
        cluster.reset(np.random.default_rng(seed))
        cluster.submit(Request(0, 0.0, 64, 1, np.arange(1, 3)), 0)
        cluster.drain()
        prompts.append(servers[0].bodies[-1]["prompt"])
    assert prompts[0] == prompts[1]
    assert prompts[0][:32] == prompts[2][:32]
    assert prompts[0][32:] != prompts[2][32:]


def test_answers_that_do_not_say_what_was_cached(servers, cluster, caplog):
    servers[0].cached_tokens, servers[1].cached_tokens = None, 16
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            cluster.submit(Request(number, 0.0, 40, 3), number % 2)
        completions = cluster.drain().completions
    cached = {done.request_id: done.num_cached_tokens for done in completions}
    assert cached == {0: 0, 1: 16, 2: 0, 3: 16, 4: 0, 5: 16}
    assert cluster.counters()["num_without_cached_tokens"] == 3
    (record,) = caplog.records  # not one for each
    assert "instance a" in record.getMessage()
    assert "--enable-prompt-tokens-details" in record.getMessage()


def test_token_times_are_kept_on_demand(servers):
    servers[0].token_interval_s = 0.01
    live = fleet.cluster({"a": servers[0].url}, keep_token_times=True)
    try:
        live.reset()
        live.submit(Request(3, 0.0, 16, 20), 0)
        (done,) = live.drain().completions
        (times,) = live.take_token_times().values()
        assert len(times) == 20
        assert (times[0], times[-1]) == (done.first_token_at_s, done.finished_at_s)
        assert (np.diff(times) >= 0).all()
        assert live.counters()["max_inter_token_s"] == np.diff(times).max()
        assert live.take_token_times() == {}
    finally:
        live.close()


def test_exact_hits_need_kv_events(cluster):
    with pytest.raises(
        ValueError, match=r"exact prefix hits need the KV events of every endpoint.*'a' a kv_ev"
    ):
        cluster.num_exact_hit_tokens(Request(0, 0.0, 16, 3))


def test_exact_hits_are_what_the_kv_events_say(servers, tmp_path):
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    address = f"ipc://{tmp_path}/events"
    socket.bind(address)
    live = fleet.cluster({"a": {"url": servers[0].url, "kv_events": address}})
    request = Request(0, 0.0, 60, 1, np.arange(1, 4))
    try:
        live.reset()
        live.submit(request, 0)
        live.drain()
        (body,) = servers[0].bodies
        assert live.num_exact_hit_tokens(request).tolist() == [0]
        event = {"type": "BlockStored", "block_hashes": [7, 8], "parent_block_hash": None, "block_size": 16}
        event |= {"token_ids": body["prompt"][:32], "extra_keys": [[body["cache_salt"]], None]}
        for sequence in (0, 1, 5):  # of which the last is after a gap
            socket.send_multipart([b"", sequence.to_bytes(8, "big"), msgpack.packb([0.0, [event], 0])])
            assert soon(lambda: live.num_exact_hit_tokens(request).tolist() == [32])
        assert soon(lambda: live.counters()["num_kv_event_gaps"] == 1)
        live.reset()
        assert live.num_exact_hit_tokens(request).tolist() == [0]  # under another salt
        assert live.counters()["num_kv_event_gaps"] == 0
        event["block_size"] = 32
        socket.send_multipart([b"", (6).to_bytes(8, "big"), msgpack.packb([0.0, [event], 0])])
        assert soon(lambda: live.reasons().get(("a", "malformed KV events")) == 1)
        assert live.counters()["num_malformed_kv_events"] == 1
    finally:
        live.close()
        socket.close(linger=0)
        context.term()


def test_kv_events_that_nobody_publishes(servers, tmp_path):
    entry = {"url": servers[0].url, "kv_events": f"ipc://{tmp_path}/none"}
    live = fleet.cluster({"a": entry}, connect_timeout_s=0.3)
    with pytest.raises(ValueError, match=r"no KV events at ipc://.*/none within 0\.3 s; mend kv_events"):
        live.reset()
    with pytest.raises(RuntimeError, match="not open"):
        live.snapshot()


def test_lag_is_counted(servers, cluster):
    def is_right():
        cluster.reset()
        for number in range(4):
            cluster.advance_to(0.1 * number)
            time.sleep(0.05 * (number == 2))
            cluster.submit(Request(number, 0.1 * number, 16, 3), 0)
        counters = cluster.counters()
        assert not isnan(cluster.drain().completions[0].ttft_s)
        assert counters["max_lag_s"] > 0.05
        assert counters["mean_lag_s"] > 0.0125
        return counters["max_lag_s"] < 0.1 and counters["mean_lag_s"] < 0.03

    assert undisturbed(is_right)


def test_a_closed_cluster_is_opened_by_reset(servers, cluster):
    cluster.close()
    cluster.close()
    for call in (cluster.counters, cluster.drain, cluster.snapshot, lambda: cluster.advance_to(1.0)):
        with pytest.raises(RuntimeError, match="the live cluster is not open: call reset"):
            call()
    assert cluster.lag_s == 0.0
    cluster.reset()
    cluster.submit(Request(0, 0.0, 16, 3), 0)
    assert not cluster.drain().completions[0].failure


def test_what_is_logged_and_raised_never_holds_the_key(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with FakeVllm(api_key="sk-secret") as server, caplog.at_level(logging.DEBUG):
        live = fleet.cluster({"a": {"url": server.url, "api_key_env": "MY_KEY"}})
        live.reset()
        server.fault = "400"  # its message repeats the key
        live.submit(Request(0, 0.0, 16, 3), 0)
        (done,) = live.drain().completions
        live.close()
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(ValueError, match="http 401; put the name of the environment variable") as refused:
            fleet.cluster({"a": {"url": server.url, "api_key_env": "MY_KEY"}})
    assert done.failure == "http 400"
    assert "told ***" in caplog.text
    assert "sk-" not in caplog.text + str(refused.value) + json.dumps([str(live.reasons)])


@pytest.mark.parametrize("limit", ["token_timeout_s", "unhealthy_after", "scrape_timeout_s"])
def test_limits_are_positive(limit):
    for value in (0, -1, inf, np.nan):
        with pytest.raises(ValueError, match=f"{limit} is"):
            Limits(**{limit: value})
