"""A million requests over 256 instances, against the same load on 8: does the cost of a request stay?

    python -m tests.benchmarks.bench_scale [--requests 1000000] [--repeats 3]

Both fleets get as many requests per instance and second (``peer_stream``), in pieces, with and without block
hashes, under round robin. Each measurement is a process of its own; times are CPU seconds of its one
thread, without compiling and without making the stream. Status 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from envs.emulator import fleet
from envs.emulator.replay import Stream, replay
from envs.emulator.rules import round_robin
from tests.benchmarks.peer_stream import NUM_INSTANCES, pieces
from tests.benchmarks.peers.outcome import peak_rss_mib

NUM_MANY = 256
NUM_EACH = 50_000
"""Requests of one piece of the stream."""
MAX_RATIO = 2.0
"""Of the cost of a request among many instances to that among 8."""
MAX_RSS_MIB = 3 * 1024
LIMIT_S = 600


class Pieces:
    """A stream whose making is timed, so that it can be taken off."""

    def __init__(self, num_requests: int, num_instances: int, hashed: bool) -> None:
        self._pieces = pieces(num_requests, num_instances, 16, NUM_EACH)
        self._hashed = hashed
        self.making_s = 0.0

    def __iter__(self) -> Iterator[Stream]:
        while True:
            started_s = time.process_time()
            stream = next(self._pieces, None)
            if stream is not None and not self._hashed:
                stream = stream._replace(hash_offsets=np.zeros_like(stream.hash_offsets))
            self.making_s += time.process_time() - started_s
            if stream is None:
                return
            yield stream


def measure(num_requests: int, num_instances: int, hashed: bool) -> dict[str, float]:
    """Microseconds of CPU time for a request, peak memory, and how many requests were completed."""
    group = {"count": num_instances, "profile": "a100_llama-3.1-8b"}
    cluster = fleet.cluster({"a100": group})
    replay(cluster, Pieces(NUM_EACH, num_instances, hashed), round_robin)
    streams = Pieces(num_requests, num_instances, hashed)
    started_s = time.process_time()
    ledger = replay(cluster, streams, round_robin)
    took_s = time.process_time() - started_s - streams.making_s
    return {
        "us_per_request": 1e6 * took_s / num_requests,
        "peak_rss_mib": peak_rss_mib(),
        "num_completed": int(np.isfinite(ledger.finished_at_s).sum()),
    }


def in_child(num_requests: int, num_instances: int, hashed: bool) -> dict[str, float]:
    """``measure`` in a process of its own."""
    arguments = json.dumps([num_requests, num_instances, hashed])
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--measure", arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    outcome: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    met = True
    for hashed in (True, False):
        few, many = [], []
        for _ in range(options.repeats):
            few.append(in_child(options.requests // 5, NUM_INSTANCES, hashed))
            many.append(in_child(options.requests, NUM_MANY, hashed))
        few_us, many_us = (min(outcome["us_per_request"] for outcome in runs) for runs in (few, many))
        rss_mib = max(outcome["peak_rss_mib"] for outcome in many)
        num_completed = min(outcome["num_completed"] for outcome in many)
        kept = many_us <= MAX_RATIO * few_us and rss_mib <= MAX_RSS_MIB and num_completed == options.requests
        met = met and kept
        print(
            f"{'every block hashed' if hashed else 'no hashes'}: {few_us:.2f} us a request on {NUM_INSTANCES}"
            f" instances, {many_us:.2f} us on {NUM_MANY}: x{many_us / few_us:.2f} (bar: {MAX_RATIO:.0f});"
            f" peak resident {rss_mib:,.0f} MiB (bar: {MAX_RSS_MIB:,});"
            f" {num_completed:,} of {options.requests:,} completed; {'met' if kept else 'NOT MET'}"
        )
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
