"""Steps per second of ``RouteGym/Routing-v0`` through Gymnasium, on one core.

    python -m tests.benchmarks.bench_env [--repeats 5] [--requests 50000]

The stream and the cluster are those of ``bench_emulator``: eight H100 instances, Azure-like requests at 70 %
of what they can serve. Instances are taken in turn; no policy thinks. Beside it, the same number for the
bare emulator, and where the time of a step goes.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import time

import gymnasium
import numpy as np

import envs  # noqa: F401 (registers the environment)
from envs.emulator.replay import replay
from envs.emulator.rules import round_robin
from envs.workload.replay import Replay
from envs.workload.trace import Trace
from tests.benchmarks.bench_emulator import AZURE, FRAC_LOAD, capacity_per_s, eight_h100


def episode_s(env: gymnasium.Env) -> float:
    """CPU seconds of an episode with the instances taken in turn."""
    env.reset(seed=0)
    started_s, instance, done = time.process_time(), 0, False
    while not done:
        _, _, done, _, _ = env.step(instance)
        instance = (instance + 1) % 8
    return time.process_time() - started_s


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=50_000)
    options = parser.parse_args()
    cluster = eight_h100()
    rate_per_s = FRAC_LOAD * capacity_per_s(cluster, AZURE)
    stream = AZURE.stream(np.random.default_rng(0), options.requests, rate_per_s)
    trace = Trace(stream.arrived_at_s, stream.num_prompt_tokens, stream.num_output_tokens)
    env = gymnasium.make(
        "RouteGym/Routing-v0", cluster=cluster, workload=Replay(trace), disable_env_checker=True
    )
    replay(cluster, [stream], round_robin)
    started_s = time.process_time()
    replay(cluster, [stream], round_robin)
    bare_us = 1e6 * (time.process_time() - started_s) / options.requests
    episode_s(env)
    rates = np.sort([options.requests / episode_s(env) for _ in range(options.repeats)])
    print(
        f"{platform.machine()}, Python {platform.python_version()}"
        f"\nenv.step: best {rates[-1]:,.0f}, median {np.median(rates):,.0f}, worst {rates[0]:,.0f}"
        f" per CPU second over {options.repeats} episodes of {options.requests:,}"
        f"\n  {1e6 / rates[-1]:.1f} us per step at best, of which the bare emulator takes {bare_us:.2f} us"
    )
    profile = cProfile.Profile()
    profile.runcall(episode_s, env)
    stats = pstats.Stats(profile)
    total_s = stats.total_tt  # type: ignore[attr-defined]
    rows = sorted(stats.stats.items(), key=lambda row: -row[1][2])[:10]  # type: ignore[attr-defined]
    print("  under a profiler, shares of the time by function:")
    for (file, _, function), (_, _, own_s, _, _) in rows:
        print(f"    {own_s / total_s:5.1%}  {file.rsplit('/', 1)[-1]}:{function}")


if __name__ == "__main__":
    main()
