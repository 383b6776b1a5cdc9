"""Whatever a server does, each request ends once as served, failed or timed out, and nothing is raised."""

import socket
import time
from contextlib import contextmanager
from math import isnan

import numpy as np
import pytest

from envs.cluster import Request
from envs.live import fleet

from .advance import advance_until, undisturbed
from .fake_vllm import FAULTS, WITHIN, FakeVllm, fakes
from .leaks import nothing_left, soon

SHORT = {
    "connect_timeout_s": 5.0,
    "first_token_timeout_s": 2.0,
    "token_timeout_s": 1.5,
    "request_timeout_s": 30.0,
    "scrape_timeout_s": 5.0,
    "scrape_interval_s": 0.05,
}
"""For the faults that are waited for; long enough for a busy machine to meet them where there is no fault."""
FAILURES = {
    "400": "http 400",
    "429": "http 429",
    "500": "http 500",
    "503": "http 503",
    "hang": "timed out: no first token within 2 s",
    "refuse_stream": "stream broke off after 0 tokens",
    "not_http": "no HTTP (ClientResponseError)",
    "error_at_once": "error 400 in stream",
    "no_tokens": "no tokens in stream",
    "no_done": "",
    "bad_usage": "malformed SSE: a chunk that is not vLLM's (TypeError)",
    "cut": "stream broke off after 3 tokens",
    "clean_cut": "stream broke off after 3 tokens",
    "half_event": "stream broke off after 3 tokens",
    "stall": "timed out: no token for 1.5 s",
    "not_json": "malformed SSE: data that is not JSON",
    "not_sse": "malformed SSE: a line that is no field",
    "not_vllm": "malformed SSE: a chunk that is not vLLM's (KeyError)",
    "error_in_stream": "error 500 in stream",
    "abort": "finished by the server: abort",
}


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.fixture
def servers():
    with fakes(2) as both:
        yield both


@contextmanager
def opened(servers, **options):
    live = fleet.cluster(
        {name: server.url for name, server in zip("ab", servers, strict=False)}, **SHORT | options
    )
    try:
        live.reset(np.random.default_rng(0))
        yield live
    finally:
        live.close()


def send(live, numbers, instance=None, num_output_tokens=8):
    for number in numbers:
        at = number % len(live.endpoints) if instance is None else instance
        live.submit(Request(number, live.now_s, 32, num_output_tokens), at)


def drained(live, num_submitted, earlier=()):
    """Completions by request id, once nothing is in flight; every count must hold."""
    events = live.drain()
    completions = [*earlier, *events.completions]
    assert sorted(done.request_id for done in completions) == list(range(num_submitted))
    assert not isnan(live.now_s)
    counters = live.counters()
    timed_out = sum(done.failure.startswith("timed out") for done in completions)
    failed = sum(bool(done.failure) for done in completions) - timed_out
    assert counters["num_submitted"] == num_submitted
    assert counters["num_timed_out"] == timed_out
    assert counters["num_failed"] == failed
    assert counters["num_served"] == num_submitted - failed - timed_out
    for done in completions:
        assert isnan(done.finished_at_s) == bool(done.failure)
        assert (done.num_output_tokens == 0) == bool(done.failure)
    return {done.request_id: done for done in completions}


def test_every_fault_is_known_here():
    assert set(FAULTS) == set(FAILURES)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_outcome_of_its_request_alone(servers, fault):
    servers[0].faults = ["", fault, "", fault]
    with opened(servers) as live:
        send(live, range(0, 8, 2), 0)
        send(live, range(1, 8, 2), 1)
        completions = drained(live, 8)
        failures = [done.failure for done in completions.values() if done.instance_index == 0]
        assert sorted(failures) == sorted(["", FAILURES[fault], "", FAILURES[fault]])
        assert all(not done.failure for done in completions.values() if done.instance_index == 1)
        for done in completions.values():
            if done.failure:
                assert isnan(done.first_token_at_s) == (fault not in WITHIN and fault != "bad_usage")
        reasons = live.reasons()
        if FAILURES[fault]:
            assert sum(count for (name, why), count in reasons.items() if why == FAILURES[fault]) == 2
            assert {name for name, _ in reasons} == {"a"}
    assert soon(lambda: servers[0].num_running == 0)  # what timed out was broken off


def test_all_at_once(servers):
    rng = np.random.default_rng(1)
    num_good = 100 - 3 * len(FAULTS)
    for server in servers:
        server.faults = rng.permutation([*FAULTS * 3, *[""] * num_good]).tolist()
    with opened(servers) as live:
        send(live, range(200))
        completions = drained(live, 200)
    expected = sorted([*FAILURES.values()] * 6 + [""] * 2 * num_good)
    assert sorted(done.failure for done in completions.values()) == expected


def test_a_server_that_dies_and_comes_back(servers):
    servers[0].token_interval_s = servers[1].token_interval_s = 0.05
    with opened(servers, unhealthy_after=3) as live:
        send(live, range(6), num_output_tokens=60)
        assert soon(lambda: servers[0].num_running == servers[1].num_running == 3)
        servers[0].stop()
        began = time.monotonic()
        passed = advance_until(live, lambda: not live.snapshot().healthy[0])
        assert time.monotonic() - began < SHORT["token_timeout_s"]
        assert live.snapshot().healthy.tolist() == [False, True]
        send(live, range(6, 8), 0)
        completions = drained(live, 8, passed)
        assert all(completions[number].failure.startswith("stream broke off after ") for number in (0, 2, 4))
        assert completions[6].failure == completions[7].failure == "connection refused"
        assert not any(completions[number].failure for number in (1, 3, 5))
        assert live.snapshot().age_s[0] > 0.2  # what was known last, ageing
        advance_until(live, lambda: live.snapshot().age_s[1] < 0.2)
        servers[0].start()
        advance_until(live, lambda: live.snapshot().healthy.tolist() == [True, True])
        advance_until(live, lambda: live.snapshot().age_s[0] < 0.2)
        assert live.counters()["num_times_unhealthy"] == 1
        assert live.counters()["num_scrapes_failed"] > 3
        send(live, [8], 0)
        assert not live.drain().completions[0].failure


def test_an_instance_that_is_down_when_an_episode_begins(servers):
    with opened(servers) as live:
        servers[0].stop()
        live.reset(np.random.default_rng(0))
        assert live.snapshot().healthy.tolist() == [False, True]
        send(live, range(4))
        completions = drained(live, 4)
        assert [completions[number].failure for number in range(4)] == [
            "connection refused",
            "",
            *["connection refused", ""],
        ]
        servers[0].start()
        advance_until(live, lambda: live.snapshot().healthy.all())


@pytest.mark.parametrize("broken", [{"metrics_status": 404}, {"metrics": {"running": "NaN"}}])
def test_an_episode_begins_with_metrics_that_say_nothing(servers, broken):
    with opened(servers) as live:
        vars(servers[0]).update(broken)
        live.reset(np.random.default_rng(0))
        assert live.snapshot().healthy.all()
        live.advance_to(0.3)
        assert live.snapshot().healthy.all()
        send(live, range(4))
        assert not any(done.failure for done in drained(live, 4).values())
        assert live.counters()["num_times_unhealthy"] == 0
        servers[0].health_status = 503
        live.reset(np.random.default_rng(0))
        assert live.snapshot().healthy.tolist() == [False, True]


def test_a_hiccup_that_every_router_sees(servers):
    with opened(servers, scrape_interval_s=0.5) as live:
        live.reset(np.random.default_rng(0), num_routers=8)
        live.advance_to(0.55)

        def is_right():
            servers[0].metrics_status = 503
            num_before, began = live.counters()["num_scrapes_failed"], time.monotonic()
            live.advance_to(live.now_s + 0.45)
            servers[0].metrics_status = 200
            is_hiccup = time.monotonic() - began < 0.9  # no router's turn came twice
            live.advance_to(live.now_s + 0.3)
            return is_hiccup and live.counters()["num_scrapes_failed"] > num_before + 3

        assert undisturbed(is_right)
        assert live.snapshot().healthy.all()
        assert live.counters()["num_times_unhealthy"] == 0
        servers[0].metrics_status = servers[0].health_status = 503
        advance_until(live, lambda: live.snapshot().healthy.tolist() == [False, True])


@pytest.mark.parametrize("fault", ["cut", "clean_cut", "error_in_stream"])
def test_an_instance_that_breaks_off_every_stream(servers, fault):
    servers[0].fault, servers[0].fault_after, servers[0].health_status = fault, 1, 503
    with opened(servers) as live:
        for number in range(3):
            assert live.snapshot().healthy.all()
            send(live, [number], 0)
            (done,) = live.drain().completions
            assert not isnan(done.first_token_at_s)
        assert live.snapshot().healthy.tolist() == [False, True]


@pytest.mark.parametrize("fault", ["429", "400", "error_at_once", "not_json", "abort"])
def test_what_is_no_fault_of_the_server_leaves_it_healthy(servers, fault):
    servers[0].fault = fault
    with opened(servers) as live:
        send(live, range(10), 0)
        drained(live, 10)
        assert live.snapshot().healthy.all()


@pytest.mark.parametrize("fault", ["500", "refuse_stream", "hang", "error_in_stream"])
def test_failures_in_a_row_and_a_probe_that_fails(servers, fault):
    servers[0].fault, servers[0].fault_after, servers[0].health_status = fault, 0, 503
    with opened(servers) as live:
        send(live, range(2), 0)
        live.drain()
        assert live.snapshot().healthy.all()
        send(live, range(2, 3), 0)
        live.drain()
        assert live.snapshot().healthy.tolist() == [False, True]
        live.advance_to(live.now_s + 2.0)
        assert live.snapshot().healthy.tolist() == [False, True]
        assert 1 <= servers[0].num_probes <= 2  # after 0.5 s and another 1 s, or somewhat later
        servers[0].health_status = 200
        advance_until(live, lambda: live.snapshot().healthy.all())
        assert live.counters()["num_times_unhealthy"] == 1


def test_scrapes_that_answer_do_not_hide_requests_that_fail(servers):
    servers[0].fault, servers[0].health_status = "500", 503
    with opened(servers) as live:
        for number in range(3):
            num_scrapes = servers[0].num_scrapes
            send(live, [number], 0)
            live.drain()
            advance_until(live, lambda before=num_scrapes: servers[0].num_scrapes > before + 1)
        assert live.snapshot().healthy.tolist() == [False, True]


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"running": "NaN"}, "scrape refused: vllm:num_requests_running is nan"),
        ({"waiting": "-3.0"}, "scrape refused: vllm:num_requests_waiting is -3"),
        ({"usage": "+Inf"}, "scrape refused: vllm:kv_cache_usage_perc is inf"),
        ({"usage": "1.01"}, "scrape refused: vllm:kv_cache_usage_perc is 1.01"),
        ({"queries": "1e99"}, r"scrape refused: vllm:prefix_cache_queries_total is 1e+99"),
    ],
)
def test_metrics_that_lie(servers, metrics, reason):
    with opened(servers) as live:
        servers[0].metrics = {"waiting": "7.0"}
        advance_until(live, lambda: live.snapshot().num_waiting.tolist() == [7, 0])
        servers[0].metrics = metrics | {"hits": "0.0"}
        send(live, range(4))
        earlier = live.advance_to(live.now_s + 0.7).completions
        earlier += advance_until(live, lambda: live.counters()["num_scrapes_refused"] >= 5)
        earlier += advance_until(live, lambda: live.snapshot().age_s[1] < 0.3)
        snapshot = live.snapshot()
        assert snapshot.num_waiting.tolist() == [7, 0]  # the last good ones, as old as they are
        assert snapshot.age_s[0] > 0.6
        assert snapshot.healthy.all()
        counters = live.counters()
        assert counters["num_scrapes_refused"] >= 5
        assert live.reasons()["a", reason] == counters["num_scrapes_refused"]
        drained(live, 4, earlier)


@pytest.mark.parametrize(("status", "is_healthy"), [(404, True), (503, False)])
def test_metrics_that_are_gone(servers, status, is_healthy):
    with opened(servers) as live:
        servers[0].metrics_status = status
        advance_until(live, lambda: live.reasons().get(("a", f"scrape: http {status}"), 0) >= 3)
        live.advance_to(max(live.now_s, 0.6))
        assert live.snapshot().age_s[0] > 0.1  # three intervals
        assert live.snapshot().healthy.tolist() == [is_healthy, True]
        servers[0].metrics_status = 200
        advance_until(live, lambda: live.snapshot().healthy.all() and live.snapshot().age_s[0] < 0.3)


def test_metrics_that_are_slow(servers):
    with opened(servers, scrape_timeout_s=1.0) as live:
        servers[0].metrics_delay_s = 0.15  # within the timeout, and three intervals
        live.advance_to(1.0)
        assert servers[0].num_scrapes < 10
        advance_until(live, lambda: live.snapshot().age_s[0] < 0.6)
        assert live.snapshot().age_s[0] > 0.1  # not younger than when it was asked for
        servers[0].metrics_delay_s = 30.0
        why = "a", "scrape: timed out: no answer within 1 s"
        advance_until(live, lambda: live.reasons().get(why, 0) >= 3)
        assert live.snapshot().healthy.tolist() == [False, True]
        send(live, range(4))
        assert not any(done.failure for done in drained(live, 4).values())  # it still serves


def test_a_server_that_never_answers_holds_nothing_up(servers):
    servers[0].fault = "hang"
    with opened(servers, first_token_timeout_s=30.0, request_timeout_s=60.0) as live:
        send(live, range(100), 0)
        began = time.monotonic()
        for number in range(100, 120):
            live.advance_to(0.02 * (number - 100))
            send(live, [number], 1)
            live.snapshot()
        live.advance_to(0.6)
        advance_until(live, lambda: live.num_in_flight == 100)
        assert time.monotonic() - began < 25.0
        began = time.monotonic()
    assert time.monotonic() - began < 25.0  # closing breaks them off


def test_an_answer_that_takes_too_long(servers):
    servers[0].token_interval_s = 0.1
    with opened(servers, request_timeout_s=1.55) as live:
        send(live, [0], 0, num_output_tokens=1000)
        done = drained(live, 1)[0]
        assert done.failure == "timed out: not done within 1.55 s"
        assert not isnan(done.first_token_at_s)
        assert live.snapshot().healthy.all()  # it did what it could


def test_no_connection_within_the_timeout(servers):
    """A listener whose backlog is full: further connections are neither made nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waiting:
        waiting.connect(full.getsockname())
        with opened(servers, connect_timeout_s=0.2) as live:
            endpoint = live._traffic._clients[0].endpoint
            object.__setattr__(endpoint, "url", f"http://127.0.0.1:{full.getsockname()[1]}")
            send(live, range(3), 0)
            failures = {done.failure for done in drained(live, 3).values()}
            assert failures == {"timed out: no connection within 0.2 s"}
            assert live.snapshot().healthy.tolist() == [False, True]


def test_a_busy_policy_delays_no_stamp_by_much():
    """Python code that never waits shares the interpreter with the thread that stamps."""
    with FakeVllm(ttft_s=0.05, token_interval_s=0.01) as server, opened([server]) as live:

        def is_right():
            live.reset()
            send(live, [0], 0, num_output_tokens=30)
            ends_at = time.monotonic() + 1.0
            while time.monotonic() < ends_at:
                sum(range(1000))
            done = drained(live, 1)[0]
            return done.ttft_s < 0.05 + 0.1 and done.e2e_s < 0.35 + 0.2

        assert undisturbed(is_right)
