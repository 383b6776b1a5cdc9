"""Calibration of real servers: the law of a modelled one is found again, and a busy one is refused."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from envs.emulator.profile import load
from envs.emulator.step_time import attended_pairs, step_time_s
from envs.live.calibrate import Options, calibrate, main, table
from envs.live.sweep import CalibrationError

from .conftest import PROFILE, TIME_SCALE
from .streamed import metric, stream

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[3]
STEPS = [  # prefill tokens, pairs, decodes, context
    *((tokens, attended_pairs(tokens, 0), 0, 0) for tokens in (100, 300, 1000, 3000, 8000)),
    *(
        (0, 0, size, size * context)
        for size, context in ((1, 100), (1, 4000), (4, 4000), (8, 1000), (24, 500))
    ),
    (1000, attended_pairs(1000, 4000), 10, 10000),
]


def test_the_law_of_a_modelled_server_is_found_again(live_servers, capsys):
    server = live_servers[0]
    options = Options(server.url, time_scale=TIME_SCALE, like=PROFILE, time_limit_s=40)
    calibration = calibrate(options)
    law = load(PROFILE).law
    errors = [step_time_s(calibration.profile.law, *step) / step_time_s(law, *step) - 1 for step in STEPS]
    with capsys.disabled():
        print(f"\n{table(calibration)}\n  worst error over {len(STEPS)} steps: {max(map(abs, errors)):.2%}")
    assert max(map(abs, errors)) < 0.05  # 0.5 % on a machine with nothing else to do
    assert calibration.profile.num_blocks == 1024
    assert calibration.profile.max_num_batched_tokens == load(PROFILE).max_num_batched_tokens
    assert 0 < calibration.overhead_s * TIME_SCALE < 0.05
    assert f"world.network_delay_s={calibration.network_delay_s:.3g}" in calibration.profile.source


def test_the_errors_on_a_cpu_are_told(live_servers, tmp_path, capsys):
    path = tmp_path / "cpu.json"
    url = f"url={live_servers[2].url}"
    main([url, f"output={path}", "max_num_seqs=16", "time_limit_s=30", "name=cpu"])
    output = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{output}")
    profile = load(path)
    assert profile.name == "cpu"
    assert (profile.num_blocks, profile.block_size, profile.max_num_seqs) == (512, 32, 16)
    assert len(profile.fit_error) > 10
    assert f"worst error {profile.worst_error:.1%}" in output
    assert "are not known, and 1 stands for them" in profile.source


def test_a_busy_server_is_refused(live_servers):
    server = live_servers[0]
    other = threading.Thread(target=stream, args=(server.port, list(range(10, 60)), 40))
    other.start()
    while metric(server.port, "vllm:num_requests_running") == 0:
        time.sleep(0.05)
    with pytest.raises(CalibrationError, match=r"is busy \(1 requests running, 0 waiting\)"):
        calibrate(Options(server.url))
    other.join()


def test_ctrl_c_writes_nothing(live_servers, tmp_path):
    server = live_servers[0]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as for a program that a shell starts
    process = subprocess.Popen(
        [sys.executable, "-m", "envs.live.calibrate", f"url={server.url}", f"output={tmp_path}/a.json"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while metric(server.port, "vllm:num_requests_running") == 0:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("stopped, nothing written\n")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while metric(server.port, "vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metric(server.port, "vllm:num_requests_running") == 0
