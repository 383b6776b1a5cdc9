"""vLLM itself: on the CPU, and on a modelled device that takes the time its profile says."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from envs.emulator.profile import load
from envs.emulator.step_time import prefill_s, step_time_s
from envs.live.in_vllm.modelled_device import duration_s
from envs.live.server import ServerError, Servers
from envs.live.server_options import ServerOptions

from .conftest import MODELLED, PROFILE, TIME_SCALE
from .processes import await_none, members
from .streamed import metric, stream, stream_all

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[3]
LAW = load(PROFILE).law


def random_prompt(seed, num_tokens):
    return np.random.default_rng(seed).integers(10, 266, num_tokens).tolist()


def steps(server):
    return [json.loads(line) for line in server.step_log_path.read_text().splitlines()]


def test_all_serve_and_say_what_they_are(live_servers):
    for server in live_servers:
        streamed = stream(server.port, random_prompt(1, 100), 5)
        assert 1 <= len(streamed.token_at_s) <= 5  # tokens that wait for each other come together
        assert streamed.usage["completion_tokens"] == 5
        assert streamed.usage["prompt_tokens_details"]["cached_tokens"] == 0
        again = stream(server.port, random_prompt(1, 100), 1)
        assert again.usage["prompt_tokens_details"]["cached_tokens"] == 96
        assert "Application startup complete" in server.log_path.read_text()
    assert list(live_servers.endpoints()) == ["modelled-0", "modelled-1", "cpu-2", "cpu-3"]


def test_a_single_request_takes_the_time_of_the_law(live_servers, capsys):
    server = live_servers[0]
    ttfts, tpots = [], []
    for seed in range(3):
        streamed = stream(server.port, random_prompt([2, seed], 4000), 12)
        ttfts.append(streamed.ttft_s)
        tpots.append(streamed.tpot_s)
    ttft_s, tpot_s = np.median(ttfts), np.median(tpots)
    law_ttft_s = TIME_SCALE * prefill_s(LAW, 4000, 8192)
    law_tpot_s = TIME_SCALE * np.mean([step_time_s(LAW, 0, 0, 1, 4001 + number) for number in range(11)])
    with capsys.disabled():
        print(f"\nTTFT {ttft_s:.4f} s, law {law_ttft_s:.4f} s; TPOT {tpot_s:.5f} s, law {law_tpot_s:.5f} s")
    assert ttft_s == pytest.approx(law_ttft_s, rel=0.05)
    assert tpot_s == pytest.approx(law_tpot_s, rel=0.01)


def test_each_logged_step_takes_the_time_of_the_law(live_servers):
    server = live_servers[0]
    num_before = len(steps(server))
    stream_all(server.port, [random_prompt([3, seed], 200 + seed) for seed in range(8)], 10)
    rows = steps(server)[num_before:]
    assert sum(sum(row["scheduled"].values()) for row in rows) == sum(200 + seed + 9 for seed in range(8))
    for row in rows:
        assert row["duration_s"] == TIME_SCALE * duration_s(LAW._asdict(), row["scheduled"], row["computed"])
    for last, row in pairwise(rows):
        assert row["begins_at_s"] == last["begins_at_s"] + last["duration_s"]  # the engine is never idle


def test_just_the_blocks_that_were_asked_for_can_be_used(live_servers):
    server = live_servers[1]
    assert server.options.num_blocks == 1024
    num_before = metric(server.port, "vllm:num_preemptions_total")
    num_steps_before = len(steps(server))
    with ThreadPoolExecutor(3) as pool:  # each of the first two holds 512 blocks, and the third must wait
        long = [pool.submit(stream, server.port, random_prompt([4, seed], 8178), 10) for seed in range(2)]
        while metric(server.port, "vllm:num_requests_running") < 2:
            time.sleep(0.02)
        third = pool.submit(stream, server.port, random_prompt(4, 15), 10).result()
        first, second = (future.result() for future in long)
    assert metric(server.port, "vllm:num_preemptions_total") == num_before
    assert len(third.token_at_s) == 10
    assert not [row for row in steps(server)[num_steps_before:] if len(row["scheduled"]) == 3]
    assert third.token_at_s[0] > min(first.token_at_s[-1], second.token_at_s[-1])


def test_a_server_is_killed_and_restarted_and_suspended(live_servers):
    server = live_servers[1]
    group = server.group
    assert len(members(group)) >= 2
    server.kill()
    assert members(group) == []
    with pytest.raises(ConnectionRefusedError):
        stream(server.port, [10], 1)
    server.restart()
    assert len(stream(server.port, random_prompt(5, 50), 3).token_at_s) == 3
    server.suspend()
    assert not server.is_healthy()
    assert server.is_alive
    server.resume()
    assert len(stream(server.port, random_prompt(6, 50), 3).token_at_s) == 3


HOLDER = """
import sys, time
from envs.live.server import *
with Servers([ServerOptions(kind="cpu", num_blocks=64, max_model_len=1024)], sys.argv[1]) as servers:
    print(servers[0].group, flush=True)
    time.sleep(600)
"""


def test_no_server_outlives_its_parent(live_servers, tmp_path):
    def start(*arguments):
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as for a program that a shell starts
    holder = start("-c", HOLDER, str(tmp_path / "killed"))
    words = ["kind=modelled", f"profile={PROFILE}", "time_scale=10", f"directory={tmp_path / 'run'}"]
    program = start("-m", "envs.live.serve", *words)
    group = int(holder.stdout.readline())
    assert len(members(group)) >= 2  # API server, engine core
    holder.kill()
    await_none(group)
    holder.communicate()

    assert program.stdout.readline().startswith("1 up: http://127.0.0.1:")
    (endpoint,) = json.loads((tmp_path / "run" / "endpoints.json").read_text()).values()
    port = int(endpoint["url"].rpartition(":")[2])
    assert len(stream(port, random_prompt(7, 50), 3).token_at_s) == 3
    started = time.monotonic()
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=30)
    assert program.returncode == 0
    assert time.monotonic() - started < 20
    with pytest.raises(ConnectionRefusedError):
        stream(port, [10], 1)


def test_what_vllm_says_of_a_bad_model_is_quoted(live_servers, tmp_path):
    (tmp_path / "model").mkdir()
    options = ServerOptions(kind="cpu", model=str(tmp_path / "model"))
    with pytest.raises(ServerError, match=r"(?s)ended with status 1; .*cpu-0\.log.*config"):
        Servers([options], tmp_path / "run").__enter__()


def test_the_modelled_servers_reported_number_of_blocks(live_servers):
    """vLLM counts the null block among its blocks, and so do its metrics."""
    port = live_servers[0].port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert f'num_gpu_blocks="{MODELLED.num_blocks + 1}"' in text
