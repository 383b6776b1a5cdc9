"""Jobs in several processes: results come back, and no process is left however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from agents.processes import run_jobs
from agents.program import program

ROOT = Path(__file__).parents[2]


def double(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return 2 * number


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_job_is_done(num_workers):
    assert sorted(run_jobs(double, [(number,) for number in range(5)], num_workers, "jobs")) == [
        0,
        2,
        4,
        6,
        8,
    ]
    assert list(run_jobs(double, [], num_workers, "jobs")) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_job_is_raised(num_workers):
    with pytest.raises(ValueError, match="-1 is negative"):
        list(run_jobs(double, [(1,), (-1,), (2,)], num_workers, "jobs"))


def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told():
    with pytest.raises(OSError, match="making jobs was ended from outside"):
        list(run_jobs(killed, [(1,), (2,)], 2, "jobs"))


def linger(path):
    """Works for ever, and says who does."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        time.sleep(0.01)


PROGRAM = """
import sys
from agents.processes import run_jobs
from agents.program import program
from tests.agents.test_processes import linger

if __name__ == "__main__":
    with program("lingering"):
        list(run_jobs(linger, [(sys.argv[1],)] * 8, 2, "jobs"))
"""


def test_no_process_is_left_where_one_is_stopped(tmp_path):
    script, pids = tmp_path / "lingering.py", tmp_path / "pids"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script), str(pids)], env=environment, cwd=tmp_path) as process:
        for _ in range(600):
            if pids.exists() and len(pids.read_text().split()) >= 2:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    workers = {int(pid) for pid in pids.read_text().split()}
    assert len(workers) >= 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def asked_to_end():
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise KeyError("left undone")


def interrupted():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise AttributeError("left undone")  # noqa: B904


@pytest.mark.parametrize("body", [asked_to_end, interrupted])
def test_an_interrupt_that_a_library_swallowed_is_one(body, capsys):
    with pytest.raises(SystemExit) as ended, program("mine"):
        body()
    assert ended.value.code == 130
    assert "mine: stopped; the same command goes on" in capsys.readouterr().err


def test_a_fault_is_no_interrupt():
    with pytest.raises(KeyError), program("mine"):
        raise KeyError("a fault")
