"""Letting time pass on a live cluster without counting on how fast the machine is."""

import time


def advance_until(live, holds, step_s=0.1):
    """Let the cluster's time pass until something holds, a minute at most; return all completions."""
    deadline, completions = time.monotonic() + 60.0, []
    while not holds():
        assert time.monotonic() < deadline
        completions += live.advance_to(live.now_s + step_s).completions
    return completions


def undisturbed(tried, num_tries=20):
    """Whether what was timed is right at least once: others use the machine too, and only ever delay."""
    return any(tried() for _ in range(num_tries))
