"""Whatever real servers do, every request ends once: served, failed or timed out."""

import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from envs.cluster import Request
from envs.live import fleet

from .faulty_proxy import (
    CUT,
    HTTP_429,
    HTTP_500,
    MALFORMED,
    METRICS_GONE,
    METRICS_NAN,
    METRICS_NEGATIVE,
    PASS,
    FaultyProxy,
)

pytestmark = pytest.mark.live
FAST = {
    "connect_timeout_s": 2.0,
    "first_token_timeout_s": 20.0,
    "token_timeout_s": 15.0,
    "request_timeout_s": 60.0,
}


@contextmanager
def opened(endpoints, **options):
    cluster = fleet.cluster(endpoints, **FAST | options)
    try:
        cluster.reset(np.random.default_rng(0))
        yield cluster
    finally:
        cluster.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "routegym-live"]


def two(servers, first=0):
    """Two servers of one kind, as endpoints."""
    endpoints = servers.endpoints()
    return {name: endpoints[name] for name in list(endpoints)[first : first + 2]}


def send(cluster, number, instance, num_output=20, num_prompt=64):
    request = Request(number, cluster.now_s, num_prompt, num_output)
    cluster.submit(request, instance)


def ended(cluster, num_submitted, earlier=()):
    """All completions, the earlier ones and those of the drain; their sums hold."""
    completions = [*earlier, *cluster.drain().completions]
    assert sorted(completion.request_id for completion in completions) == list(range(num_submitted))
    counters = cluster.counters()
    kinds = [counters[f"num_{kind}"] for kind in ("served", "failed", "timed_out")]
    assert counters["num_submitted"] == num_submitted == sum(kinds)
    assert counters["num_served"] == sum(not completion.failure for completion in completions)
    return {completion.request_id: completion for completion in completions}


@pytest.mark.parametrize("first", [0, 2], ids=["modelled", "cpu"])
def test_kill_in_mid_stream_then_refused_then_back(live_servers, first):
    victim = live_servers[first]
    with opened(two(live_servers, first)) as cluster:
        try:
            for number in range(6):
                send(cluster, number, number % 2, num_output=200)
            events = cluster.advance_to(cluster.now_s + 3.0)
            assert not events.completions
            victim.kill()
            events = cluster.advance_to(cluster.now_s + 2.0)
            assert {completion.instance_index for completion in events.completions} == {0}
            assert all("broke off after" in completion.failure for completion in events.completions)
            for number in range(6, 10):
                send(cluster, number, 0)
            completions = ended(cluster, 10, events.completions)
            assert all(completions[number].failure == "connection refused" for number in range(6, 10))
            assert all(not completions[number].failure for number in (1, 3, 5))
            assert cluster.snapshot().healthy.tolist() == [False, True]
        finally:
            victim.restart()
        cluster.advance_to(cluster.now_s + 12.0)  # a probe comes every ten seconds at least
        assert cluster.snapshot().healthy.tolist() == [True, True]
        send(cluster, 10, 0)
        assert not cluster.drain().completions[0].failure


def test_halted_for_five_seconds(live_servers):
    with opened(two(live_servers)) as cluster:
        for number in range(4):
            send(cluster, number, number % 2, num_output=100)
        events = cluster.advance_to(cluster.now_s + 2.0)
        live_servers[0].suspend()
        began = time.monotonic()
        try:
            events.completions.extend(cluster.advance_to(cluster.now_s + 5.0).completions)
        finally:
            live_servers[0].resume()
        assert time.monotonic() - began < 5.5  # the environment was not held up
        assert cluster.snapshot().healthy.tolist() == [False, True]  # its scrapes timed out
        completions = ended(cluster, 4, events.completions)
        assert all(not completion.failure for completion in completions.values())
        assert completions[0].e2e_s > completions[1].e2e_s + 3.0


def test_halted_for_longer_than_is_waited_for(live_servers):
    with opened(two(live_servers), token_timeout_s=2.0, first_token_timeout_s=3.0) as cluster:
        send(cluster, 0, 0, num_output=100)
        send(cluster, 1, 1, num_output=100)
        events = cluster.advance_to(cluster.now_s + 2.0)
        live_servers[0].suspend()
        try:
            send(cluster, 2, 0)
            completions = ended(cluster, 3, events.completions)
        finally:
            live_servers[0].resume()
        assert completions[0].failure == "timed out: no token for 2 s"
        assert completions[2].failure.startswith("timed out: no ")
        assert not completions[1].failure


@pytest.mark.parametrize(
    ("fault", "failure"),
    [(HTTP_500, "http 500"), (HTTP_429, "http 429"), (MALFORMED, "malformed SSE"), (CUT, "broke off after")],
)
def test_faults_on_the_way(live_servers, fault, failure):
    direct, behind = two(live_servers).items()
    with FaultyProxy(direct[1]["url"]) as proxy:
        endpoints = {direct[0]: direct[1] | {"url": proxy.url}, behind[0]: behind[1]}
        with opened(endpoints) as cluster:
            proxy.fault = fault
            for number in range(10):
                send(cluster, number, number % 2)
                cluster.advance_to(cluster.now_s + 0.05)
            completions = ended(cluster, 10)
            for number, completion in completions.items():
                assert (failure in completion.failure) if number % 2 == 0 else not completion.failure
            assert cluster.snapshot().healthy.tolist() == [fault != HTTP_500, True]
            proxy.fault = PASS
            cluster.advance_to(cluster.now_s + 12.0)
            send(cluster, 10, 0)
            assert not cluster.drain().completions[0].failure


@pytest.mark.parametrize("fault", [METRICS_GONE, METRICS_NAN, METRICS_NEGATIVE])
def test_metrics_gone_or_lying(live_servers, fault):
    name, endpoint = next(iter(two(live_servers).items()))
    with FaultyProxy(endpoint["url"]) as proxy, opened({name: endpoint | {"url": proxy.url}}) as cluster:
        cluster.advance_to(0.5)
        assert cluster.snapshot().age_s[0] < 0.4
        proxy.fault = fault
        for number in range(3):
            send(cluster, number, 0, num_output=10)
        cluster.advance_to(2.0)
        snapshot = cluster.snapshot()
        assert snapshot.age_s[0] > 1.0  # what was known stays, and ages
        assert snapshot.num_running[0] == 0
        counters = cluster.counters()
        assert counters["num_scrapes_failed"] + counters["num_scrapes_refused"] > 5
        completions = ended(cluster, 3)
        assert all(not completion.failure for completion in completions.values())
        proxy.fault = PASS
        cluster.advance_to(cluster.now_s + 12.0)
        assert cluster.snapshot().age_s[0] < 0.4
        assert cluster.snapshot().healthy[0]


def test_a_slow_reader_and_a_jump_of_the_date_delay_no_stamp(live_servers, monkeypatch):
    with opened(two(live_servers)) as cluster:
        send(cluster, 0, 0, num_output=30)
        prompt = cluster.drain().completions[0]
        send(cluster, 1, 0, num_output=30)
        moved = time.time() + 86400.0
        monkeypatch.setattr(time, "time", lambda: moved)
        time.sleep(prompt.e2e_s + 2.0)  # the environment's thread does something else
        completions = cluster.advance_to(cluster.now_s + prompt.e2e_s + 1.0).completions
        assert len(completions) == 1
        assert completions[0].ttft_s < 2 * prompt.ttft_s + 0.1
        assert completions[0].e2e_s < 1.5 * prompt.e2e_s


def test_what_is_in_flight_ends_with_the_episode(live_servers):
    with opened(two(live_servers)) as cluster:
        for number in range(8):
            send(cluster, number, number % 2, num_output=500)
        cluster.advance_to(1.0)
        cluster.reset(np.random.default_rng(1))
        cluster.advance_to(1.0)
        assert cluster.snapshot().num_running.tolist() == [0, 0]  # vLLM aborted them
        send(cluster, 0, 0)
        assert list(ended(cluster, 1)) == [0]


def test_ctrl_c_while_waiting(live_servers):
    with opened(two(live_servers)) as cluster:
        send(cluster, 0, 0, num_output=500)
        timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
        timer.start()
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                cluster.drain()
        finally:
            signal.signal(signal.SIGINT, previous)
            timer.join()
