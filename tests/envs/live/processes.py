"""Start processes, and see which of a group are left."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[3]


def members(group):
    """Process ids of a process group, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" (")
        except OSError:  # it has just ended
            continue
        state, _, of_group = rest.rpartition(") ")[2].split()[:3]
        if int(of_group) == group and state != "Z":
            found.append(int(pid))
    return found


def await_none(group, timeout_s=60.0):
    """Wait until no process of the group is left."""
    deadline = time.monotonic() + timeout_s
    while members(group):
        assert time.monotonic() < deadline, f"group {group} has {members(group)} left"
        time.sleep(0.05)


def answers(url):
    """Whether a server is healthy."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def start(*arguments, **variables):
    """A Python of ours with these arguments and environment variables."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as for a program that a shell starts
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
