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
    "speed_factor": 1.0,  # modelled servers are ten times slow here: their steps are some 60 ms
    "connect_timeout_s": 2.0,
    "first_token_timeout_s": 20.0,
    "token_timeout_s": 15.0,
    "request_timeout_s": 60.0,
}


class Play:
    """Sends requests to a cluster, keeps what becomes of them."""

    def __init__(self, cluster):
        self.cluster, self.num_sent, self.completions = cluster, 0, {}

    def send(self, instance, num_output=20, num_prompt=64):
        request = Request(self.num_sent, self.cluster.now_s, num_prompt, num_output)
        self.cluster.submit(request, instance)
        self.num_sent += 1

    def wait(self, duration_s):
        """Let so much time pass from when the clock is, which may be ahead of the cluster."""
        self._take(self.cluster.advance_to(self.cluster.now_s + self.cluster.lag_s + duration_s))

    def end(self):
        """Wait until nothing is in flight; every request has ended once, and the sums hold."""
        self._take(self.cluster.drain())
        assert self.completions.keys() == set(range(self.num_sent))
        counters = self.cluster.counters()
        kinds = [counters[f"num_{kind}"] for kind in ("served", "failed", "timed_out")]
        assert counters["num_submitted"] == self.num_sent == sum(kinds)
        assert kinds[0] == sum(not completion.failure for completion in self.completions.values())
        return [self.completions[number].failure for number in range(self.num_sent)]

    def _take(self, events):
        for completion in events.completions:
            assert completion.request_id not in self.completions
            self.completions[completion.request_id] = completion


@contextmanager
def playing(endpoints, **options):
    cluster = fleet.cluster(endpoints, **FAST | options)
    try:
        cluster.reset(np.random.default_rng(0))
        yield cluster, Play(cluster)
    finally:
        cluster.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "routegym-live"]


def two(servers, first=0):
    """Two servers of one kind, as endpoints."""
    endpoints = servers.endpoints()
    return {name: endpoints[name] for name in list(endpoints)[first : first + 2]}


@pytest.mark.parametrize(("first", "num_output"), [(0, 150), (2, 6000)], ids=["modelled", "cpu"])
def test_kill_in_mid_stream_then_refused_then_back(live_servers, first, num_output):
    victim = live_servers[first]
    with playing(two(live_servers, first)) as (cluster, play):
        try:
            for number in range(6):
                play.send(number % 2, num_output)
            play.wait(2.0)
            assert not play.completions
            victim.kill()
            play.wait(2.0)
            assert {completion.instance_index for completion in play.completions.values()} == {0}
            for _ in range(4):
                play.send(0)
            failures = play.end()
            assert all("broke off after" in failures[number] for number in (0, 2, 4))
            assert failures[6:] == ["connection refused"] * 4
            assert not any(failures[number] for number in (1, 3, 5))
            assert cluster.snapshot().healthy.tolist() == [False, True]
        finally:
            victim.restart()
        play.wait(12.0)  # a probe comes every ten seconds at least
        assert cluster.snapshot().healthy.tolist() == [True, True]
        play.send(0)
        assert not play.end()[-1]


def test_halted_for_five_seconds(live_servers):
    with playing(two(live_servers)) as (cluster, play):
        for number in range(4):
            play.send(number % 2, num_output=100)
        play.wait(2.0)
        live_servers[0].suspend()
        began = time.monotonic()
        try:
            play.wait(5.0)
        finally:
            live_servers[0].resume()
        assert time.monotonic() - began < 5.5  # the environment was not held up
        assert cluster.snapshot().healthy.tolist() == [False, True]  # its scrapes timed out
        assert not any(play.end())
        assert play.completions[0].e2e_s > play.completions[1].e2e_s + 3.0


def test_halted_for_longer_than_is_waited_for(live_servers):
    with playing(two(live_servers), token_timeout_s=2.0, first_token_timeout_s=3.0) as (_, play):
        play.send(0, num_output=100)
        play.send(1, num_output=100)
        play.wait(2.0)
        live_servers[0].suspend()
        try:
            play.send(0)
            failures = play.end()
        finally:
            live_servers[0].resume()
        assert failures[0] == "timed out: no token for 2 s"
        assert failures[2].startswith("timed out: no ")
        assert not failures[1]


@pytest.mark.parametrize(
    ("fault", "failure"),
    [(HTTP_500, "http 500"), (HTTP_429, "http 429"), (MALFORMED, "malformed SSE"), (CUT, "broke off after")],
)
def test_faults_on_the_way(live_servers, fault, failure):
    direct, behind = two(live_servers).items()
    with FaultyProxy(direct[1]["url"]) as proxy:
        endpoints = {direct[0]: direct[1] | {"url": proxy.url}, behind[0]: behind[1]}
        with playing(endpoints) as (cluster, play):
            proxy.fault = fault
            was_down = False
            for number in range(10):
                play.send(number % 2)
                play.wait(0.05)
                was_down |= not cluster.snapshot().healthy[0]
            for number, told in enumerate(play.end()):
                assert (failure in told) if number % 2 == 0 else not told
            if fault in (HTTP_500, HTTP_429):
                assert was_down == (fault == HTTP_500)  # who asks to slow down is not down
            proxy.fault = PASS
            play.wait(12.0)
            play.send(0)
            assert not play.end()[-1]


@pytest.mark.parametrize("fault", [METRICS_GONE, METRICS_NAN, METRICS_NEGATIVE])
def test_metrics_gone_or_lying(live_servers, fault):
    name, endpoint = next(iter(two(live_servers).items()))
    with (
        FaultyProxy(endpoint["url"]) as proxy,
        playing({name: endpoint | {"url": proxy.url}}) as (cluster, play),
    ):
        play.wait(0.5)
        assert cluster.snapshot().age_s[0] < 0.4
        proxy.fault = fault
        for _ in range(3):
            play.send(0, num_output=10)
        play.wait(2.0)
        snapshot = cluster.snapshot()
        assert snapshot.age_s[0] > 1.0  # what was known stays, and ages
        assert snapshot.num_running[0] == 0
        counters = cluster.counters()
        assert counters["num_scrapes_failed"] + counters["num_scrapes_refused"] > 5
        assert not any(play.end())
        proxy.fault = PASS
        play.wait(12.0)
        assert cluster.snapshot().age_s[0] < 0.4
        assert cluster.snapshot().healthy[0]


def test_a_slow_reader_and_a_jump_of_the_date_delay_no_stamp(live_servers, monkeypatch):
    with playing(two(live_servers)) as (_, play):
        play.send(0, num_output=30)
        play.end()
        alone = play.completions[0]
        play.send(0, num_output=30)
        moved = time.time() + 86400.0
        monkeypatch.setattr(time, "time", lambda: moved)
        time.sleep(alone.e2e_s + 2.0)  # the environment's thread does something else
        play.wait(alone.e2e_s + 1.0)
        assert play.completions[1].ttft_s < 2 * alone.ttft_s + 0.1
        assert play.completions[1].e2e_s < 1.5 * alone.e2e_s
        play.end()


def test_what_is_in_flight_ends_with_the_episode(live_servers):
    with playing(two(live_servers)) as (cluster, play):
        for number in range(8):
            play.send(number % 2, num_output=500)
        play.wait(1.0)
        cluster.reset(np.random.default_rng(1))
        play = Play(cluster)
        play.wait(1.0)
        assert cluster.snapshot().num_running.tolist() == [0, 0]  # vLLM aborted them
        play.send(0)
        assert play.end() == [""]


def test_ctrl_c_while_waiting(live_servers):
    with playing(two(live_servers)) as (cluster, play):
        play.send(0, num_output=500)
        timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
        timer.start()
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                cluster.drain()
        finally:
            signal.signal(signal.SIGINT, previous)
            timer.join()
