"""What a simulator's process prints when it is done: one line of JSON, the last one of its output.

Standard library only: this runs in every peer's own environment.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_job() -> dict[str, Any]:
    """The job that the process was given: a JSON object, its first argument."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    return job


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, median and 99th percentile (the nearest rank) of at least one value."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "mean": sum(ordered) / len(ordered),
        "p50": ordered[round(0.50 * last)],
        "p99": ordered[round(0.99 * last)],
    }


def peak_rss_mib() -> float:
    """Most memory that this process held; not, as getrusage says, what its parent held before it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_outcome(
    version: str,
    simulate_s: float,
    num_requests: int,
    num_output_tokens: int,
    simulated_s: float,
    ttft_s: dict[str, float],
    tpot_s: dict[str, float],
) -> None:
    """Print the line.

    Args:
        version: Of the simulator.
        simulate_s: Wall seconds of the simulation itself, without starting up.
        num_requests: That were completed.
        num_output_tokens: Of those requests.
        simulated_s: When the last of them finished, in simulated time.
        ttft_s: A ``spread``.
        tpot_s: A ``spread``.
    """
    print(json.dumps({**locals(), "peak_rss_mib": peak_rss_mib()}), flush=True)
