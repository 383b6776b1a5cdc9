"""Routing decisions per second of the emulator's bare loop, on one core.

    python -m tests.benchmarks.bench_emulator [--repeats 7] [--requests 100000] [--quick]

Eight H100 instances (8B model), least in flight, a Poisson stream at 70 % of what the instances can serve;
prefix caching is on and no request shares a prefix. Times are CPU seconds of the one thread. Long answers
are run with and without event skipping. A last measurement, in a process of its own, is the peak memory of a
stream of a million requests.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from envs.emulator import fleet
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.replay import Ledger, Stream, replay
from envs.emulator.rules import least_in_flight

FRAC_LOAD = 0.7
MAX_MODEL_LEN = 32768
BLOCK_SIZE = 16
WIDE_BLOCK_SIZE = 2048
"""With blocks so wide the steps are the same, but there are next to no blocks to handle."""


@dataclass(frozen=True)
class Workload:
    """Independent log-normal lengths; one number as p50 and p90 makes them all alike."""

    name: str
    prompt_p50: float
    prompt_p90: float
    output_p50: float
    output_p90: float
    hashed: bool = False
    """Whether every full block of a prompt has a hash of its own, so that it enters the cache table."""

    def stream(
        self, rng: np.random.Generator, num: int, requests_per_s: float, start_s: float = 0.0
    ) -> Stream:
        """``num`` requests that arrive from ``start_s`` on."""
        prompts = np.minimum(lengths(rng, num, self.prompt_p50, self.prompt_p90), MAX_MODEL_LEN - 1)
        num_hashes = prompts // BLOCK_SIZE if self.hashed else np.zeros(num, np.int64)
        return Stream(
            arrived_at_s=start_s + np.cumsum(rng.exponential(1.0 / requests_per_s, num)),
            num_prompt_tokens=prompts,
            num_output_tokens=lengths(rng, num, self.output_p50, self.output_p90),
            hashes=rng.integers(1, 1 << 62, num_hashes.sum()),
            hash_offsets=np.concatenate([[0], np.cumsum(num_hashes)]),
        )


AZURE = Workload("Azure-like", 1469, 5188, 13, 55)
HASHED = replace(AZURE, name="Azure-like, every block hashed", hashed=True)
FIXED = Workload("1,000 in, 200 out", 1000, 1000, 200, 200)
LONG = Workload("long answers", 200, 400, 4000, 6000)


def lengths(rng: np.random.Generator, num: int, p50: float, p90: float) -> np.ndarray:
    """Log-normal lengths with these quantiles, at least 1."""
    sigma = np.log(p90 / p50) / 1.2815515655446004
    return np.maximum(np.rint(p50 * np.exp(sigma * rng.standard_normal(num))), 1).astype(np.int64)


def eight_h100(block_size: int = BLOCK_SIZE, step_log_rows: int = 0) -> EmulatedCluster:
    """The benchmark's cluster."""
    group = {"count": 8, "profile": "h100_llama-3.1-8b", "max_model_len": MAX_MODEL_LEN}
    return fleet.cluster({"h100": group}, block_size, step_log_rows=step_log_rows)


def capacity_per_s(cluster: EmulatedCluster, workload: Workload) -> float:
    """Requests per second that the cluster serves when it never waits: a backlog of 8,000 at once."""
    stream = workload.stream(np.random.default_rng(1), 8000, 1e6)
    return 8000 / float(replay(cluster, [stream], least_in_flight).finished_at_s.max())


def times_s(cluster: EmulatedCluster, stream: Stream, repeats: int) -> tuple[np.ndarray, Ledger]:
    """CPU seconds of each replay, the compiling one left out."""
    replay(cluster, [stream], least_in_flight)
    seconds = []
    for _ in range(repeats):
        started_s = time.process_time()
        ledger = replay(cluster, [stream], least_in_flight)
        seconds.append(time.process_time() - started_s)
    return np.array(seconds), ledger


def measure(workload: Workload, num_requests: int, repeats: int) -> None:
    """Print decisions per second, and what the emulator did for each."""
    cluster = eight_h100()
    capacity = capacity_per_s(cluster, workload)
    stream = workload.stream(np.random.default_rng(0), num_requests, FRAC_LOAD * capacity)
    seconds, ledger = times_s(cluster, stream, repeats)
    rates = np.sort(num_requests / seconds)
    num_steps, num_tokens, num_preemptions = (
        cluster.state.instances[name].sum() / num_requests
        for name in ("num_steps", "num_generated_tokens", "num_preemptions")
    )
    num_blocks = np.ceil((stream.num_prompt_tokens + stream.num_output_tokens - 1) / BLOCK_SIZE).mean()
    wide = eight_h100(WIDE_BLOCK_SIZE)
    no_hashes = stream._replace(hash_offsets=np.zeros(num_requests + 1, np.int64))
    wide_s = times_s(wide, no_hashes, repeats)[0].min()
    wide_steps = wide.state.instances["num_steps"].sum() / num_requests
    ttft_s = ledger.first_token_at_s - stream.arrived_at_s
    e2e_s = ledger.finished_at_s - stream.arrived_at_s
    print(
        f"{workload.name}: best {rates[-1]:,.0f}, median {np.median(rates):,.0f}, worst {rates[0]:,.0f}"
        f" decisions per CPU second over {repeats} runs of {num_requests:,} requests"
        f"\n  {1e6 / rates[-1]:.2f} us per decision at best; {1e6 * wide_s / num_requests:.2f} us"
        f" with blocks of {WIDE_BLOCK_SIZE} tokens ({wide_steps:.2f} steps per request)"
        f"\n  per request {num_steps:.2f} steps, {num_tokens:.1f} output tokens, {num_blocks:.0f} blocks,"
        f" {num_preemptions:.3f} preemptions"
        f"\n  {FRAC_LOAD * capacity:.1f} requests/s, {FRAC_LOAD:.0%} of capacity;"
        f" p50 TTFT {np.median(ttft_s):.3f} s, mean E2E {e2e_s.mean():.3f} s"
    )


def skipping(workload: Workload, num_requests: int, repeats: int) -> None:
    """Print what event skipping gains, at two loads, run by turns with stepping."""
    clusters = {skips: EmulatedCluster(eight_h100().configs, event_skipping=skips) for skips in (True, False)}
    capacity = capacity_per_s(clusters[True], workload)
    for frac_load in (0.3, FRAC_LOAD):
        stream = workload.stream(np.random.default_rng(0), num_requests, frac_load * capacity)
        best = dict.fromkeys(clusters, np.inf)
        for _ in range(3):
            for skips, cluster in clusters.items():
                best[skips] = min(best[skips], times_s(cluster, stream, -(-repeats // 3))[0].min())
        num_tokens = int(clusters[True].state.instances["num_generated_tokens"].sum())
        print(
            f"{workload.name} (p50 {workload.output_p50:,.0f} tokens) at {frac_load:.0%} of capacity:"
            f" event skipping is {best[False] / best[True]:.2f} times as fast as stepping"
            f" ({num_tokens / best[True] / 1e6:,.0f} and {num_tokens / best[False] / 1e6:,.0f} million output"
            " tokens per CPU second)"
        )


def million_requests() -> None:
    """Print the peak memory of this process after a million Azure-like requests, in pieces of 50,000."""
    cluster = eight_h100()
    requests_per_s = FRAC_LOAD * capacity_per_s(cluster, AZURE)

    def pieces() -> Iterator[Stream]:
        rng, now_s = np.random.default_rng(0), 0.0
        for _ in range(20):
            piece = AZURE.stream(rng, 50_000, requests_per_s, now_s)
            now_s = float(piece.arrived_at_s[-1])
            yield piece

    started_s = time.process_time()
    ledger = replay(cluster, pieces(), least_in_flight)
    took_s = time.process_time() - started_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"1,000,000 Azure-like requests in {took_s:.1f} CPU s, making them included;"
        f" peak resident {peak_mib:,.0f} MiB;"
        f" all served: {bool(np.isfinite(ledger.finished_at_s).all())}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="leave the million requests out")
    parser.add_argument("--million", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.million:
        million_requests()
        return
    print(f"{platform.machine()}, Python {platform.python_version()}")
    measure(AZURE, options.requests, options.repeats)
    measure(HASHED, options.requests // 4, options.repeats)
    measure(FIXED, options.requests // 4, options.repeats)
    skipping(LONG, options.requests // 25, options.repeats)
    if not options.quick:
        subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_emulator", "--million"], check=True)


if __name__ == "__main__":
    main()
