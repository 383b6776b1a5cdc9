"""Ends of a live cluster, good and bad ones: nothing of it is left, and what went wrong is told."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from envs.cluster import Request
from envs.live import fleet, stream
from envs.live.quick_switching import SWITCH_INTERVAL
from envs.live.scraper import Scraper

from .fake_vllm import fakes
from .leaks import live_threads, nothing_left, soon

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.fixture
def servers():
    with fakes(2, ttft_s=0.05, token_interval_s=0.05) as both:
        yield both


def opened(servers, **options):
    live = fleet.cluster({name: server.url for name, server in zip("ab", servers, strict=True)}, **options)
    live.reset(np.random.default_rng(0))
    return live


def send(live, num):
    for number in range(num):
        live.submit(Request(number, live.now_s, 32, 100), number % 2)


def route(live):
    send(live, 2)
    live.advance_to(5.0)


def test_the_constructor_leaves_no_thread(servers):
    live = fleet.cluster({"a": servers[0].url})
    assert not live_threads()
    live.close()


def test_closing_in_the_middle_of_everything(servers):
    for moment_s in (0.0, 0.01, 0.06, 0.2):
        live = opened(servers, scrape_interval_s=0.005)
        send(live, 20)
        live.advance_to(moment_s)
        live.close()
        assert not live_threads()
    assert soon(lambda: servers[0].num_running == servers[1].num_running == 0)


def test_threads_switch_quickly_while_a_cluster_is_open(servers):
    usual = sys.getswitchinterval()
    first, second = opened(servers), opened(servers)
    assert sys.getswitchinterval() == SWITCH_INTERVAL < usual
    first.close()
    assert sys.getswitchinterval() == SWITCH_INTERVAL
    second.close()
    assert sys.getswitchinterval() == usual


def test_garbage_ends_its_thread_and_warns(servers):
    live = opened(servers)
    send(live, 4)
    live.advance_to(0.1)
    box = [live]
    del live
    with pytest.warns(ResourceWarning, match=r"unclosed LiveCluster: call close\(\)"):
        box.clear()


def test_a_program_that_forgets_to_close_ends_without_noise(servers):
    program = f"""
import numpy as np
from envs.cluster import Request
from envs.live import fleet
live = fleet.cluster({{"a": {servers[0].url!r}}})
live.reset()
live.submit(Request(0, 0.0, 32, 100), 0)
live.advance_to(0.1)
print("done")
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "done\n"
    assert ended.returncode == 0
    assert "Task was destroyed" not in ended.stderr
    assert "Unclosed" not in ended.stderr


def test_it_goes_to_no_other_process(servers):
    live = opened(servers)
    try:
        with pytest.raises(TypeError, match="a LiveCluster has connections and a thread; make another"):
            pickle.dumps(live)
        with warnings.catch_warnings():  # of forking with threads, which is what is tried
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                live.advance_to(1.0)
            except RuntimeError as error:
                live.close()
                os._exit(7 if "opened before a fork" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        send(live, 2)
        assert live.advance_to(0.2).first_tokens  # here it works as before
    finally:
        live.close()


@pytest.mark.parametrize(("where", "what"), [(stream.Stream, "_read"), (Scraper, "_scrape")])
def test_an_error_of_our_own_reaches_the_environment(servers, monkeypatch, where, what):
    async def broken(*_):
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(where, what, broken)
    live = opened(servers, scrape_interval_s=0.02)
    try:
        with pytest.raises(
            RuntimeError, match=r"the thread of the live cluster failed: ZeroDivisionError"
        ) as told:
            route(live)
        assert isinstance(told.value.__cause__, ZeroDivisionError)
        for call in (live.drain, live.reset, lambda: route(live)):
            with pytest.raises(RuntimeError, match="a mistake"):
                call()
        monkeypatch.undo()
        live.close()
        live.reset()
        live.submit(Request(0, 0.0, 32, 2), 0)
        assert not live.drain().completions[0].failure
    finally:
        live.close()


def test_a_loop_that_ends_by_itself_is_told(servers):
    live = opened(servers)
    try:
        send(live, 2)
        live._thread.post(live._thread._stopped.set)
        with pytest.raises(RuntimeError, match=r"failed.*it has ended"):
            live.drain()
    finally:
        live.close()


def interrupt_soon():
    """A timer that sends Ctrl-C to the main thread, which may ignore it: what a shell runs aside does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    return timer


def test_interrupt_while_waiting(servers):
    live = opened(servers)
    try:
        send(live, 2)
        timer = interrupt_soon()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            live.drain()
        assert time.monotonic() - began < 4.5  # what is under way takes 5 s
        timer.join()
    finally:
        live.close()


def test_a_reset_that_was_interrupted(servers):
    live = fleet.cluster({"a": servers[0].url})
    try:
        servers[0].metrics_delay_s = 0.9
        timer = interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            live.reset()
        timer.join()
        for call in (live.counters, live.snapshot, live.drain, lambda: send(live, 1)):
            with pytest.raises(RuntimeError, match=r"the last reset .* was interrupted: call reset"):
                call()
        servers[0].metrics_delay_s = 0.0
        live.reset()
        assert live.counters()["num_submitted"] == 0
        assert live.snapshot().healthy.all()
    finally:
        live.close()


def test_made_and_reset_inside_a_running_loop(servers):
    """As in a notebook."""
    import asyncio

    async def cell():
        live = opened(servers)
        send(live, 2)
        num_tokens, deadline = 0, time.monotonic() + 60.0
        while num_tokens < 2 and time.monotonic() < deadline:
            num_tokens += len(live.advance_to(live.now_s + 0.1).first_tokens)
        live.close()
        return num_tokens

    assert asyncio.run(cell()) == 2


def test_many_episodes_leave_nothing_behind(servers):
    for server in servers:
        server.ttft_s = server.token_interval_s = 0.001
    live = opened(servers, scrape_interval_s=0.01)
    num_threads = threading.active_count()
    for _ in range(20):
        live.reset()
        send(live, 6)
        live.advance_to(0.02)
    assert threading.active_count() == num_threads
    assert len(live._traffic._flights) <= 6
    assert len(live._traffic._scrapes) == 2
    live.close()
