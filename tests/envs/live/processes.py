"""Which processes of a group are left."""

import time
from pathlib import Path


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


def await_none(group, timeout_s=10.0):
    """Wait until no process of the group is left."""
    deadline = time.monotonic() + timeout_s
    while members(group):
        assert time.monotonic() < deadline, f"group {group} has {members(group)} left"
        time.sleep(0.05)
