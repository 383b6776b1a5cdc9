"""Seconds from ``python`` to the first routed request, with and without compiled functions on disk.

    python -m tests.benchmarks.bench_start [--repeats 5]

A child process imports the environment, makes it, resets it and steps once. Cold: its numba cache is an
empty folder. Warm: the folder that the cold run left. Status 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

PROGRAM = """
import envs, gymnasium
env = gymnasium.make("RouteGym/Routing-v0")
env.reset(seed=0)
env.step(0)
"""
MAX_WARM_S = 3.0
MAX_COLD_S = 60.0
LIMIT_S = 600


def start_s(cache: str) -> float:
    """Wall seconds of the program with this folder as numba's cache."""
    started_s = time.perf_counter()
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=LIMIT_S)
    return time.perf_counter() - started_s


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of the warm start")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        cold_s = start_s(cache)
        warm_s = sorted(start_s(cache) for _ in range(options.repeats))
    print(
        f"import, make, reset and first step: warm best {warm_s[0]:.2f} s, worst {warm_s[-1]:.2f} s"
        f" (bar: {MAX_WARM_S:.0f}); cold {cold_s:.1f} s (bar: {MAX_COLD_S:.0f})"
    )
    sys.exit(0 if warm_s[0] < MAX_WARM_S and cold_s < MAX_COLD_S else 1)


if __name__ == "__main__":
    main()
