"""Steps per second of many clusters through Stable-Baselines3, beside those of a single environment.

    python -m tests.benchmarks.bench_vector [--envs 64] [--threads 1] [--repeats 5] [--steps 20000]

Cluster and stream are those of ``bench_env``: eight H100 instances, Azure-like requests at 70 % of what they
can serve; instances are taken in turn. One side is ``DummyVecEnv`` of one ``RoutingEnv``, the other
``RoutingVecEnv``; they take turns in one run. With one thread times are CPU seconds, else the clock's.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from envs.routing import RoutingEnv
from envs.sb3_vector import RoutingVecEnv
from envs.workload.replay import Replay
from envs.workload.trace import Trace
from tests.benchmarks.bench_emulator import AZURE, FRAC_LOAD, capacity_per_s, eight_h100

NUM_REQUESTS = 50_000


def replay() -> Replay:
    """The stream of ``bench_env``, from another request on for each seed."""
    rate_per_s = FRAC_LOAD * capacity_per_s(eight_h100(), AZURE)
    stream = AZURE.stream(np.random.default_rng(0), NUM_REQUESTS + 1000, rate_per_s)
    trace = Trace(stream.arrived_at_s, stream.num_prompt_tokens, stream.num_output_tokens)
    return Replay(trace, num_requests=NUM_REQUESTS, start="random")


def steps_per_s(envs: VecEnv, num_steps: int, clock: Callable[[], float]) -> float:
    """Steps of all environments per second, the instances taken in turn."""
    actions, started_s = np.arange(envs.num_envs) % 8, clock()
    for _ in range(num_steps // envs.num_envs):
        envs.step(actions)
        actions = (actions + 1) % 8
    return num_steps // envs.num_envs * envs.num_envs / (clock() - started_s)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    workload = replay()
    single = DummyVecEnv([lambda: RoutingEnv(eight_h100(), workload)])
    many = RoutingVecEnv(options.envs, threads=options.threads, cluster=eight_h100(), workload=workload)
    rates = np.zeros((options.repeats + 1, 2))
    for envs in (single, many):
        envs.seed(0)
        envs.reset()
    for row in rates:  # the first is for warming up
        row[:] = (
            steps_per_s(single, options.steps, clock),
            steps_per_s(many, options.steps * 8, clock),
        )
    rates = rates[1:]
    best, median = rates.max(axis=0), np.median(rates, axis=0)
    unit = "CPU second" if options.threads == 1 else "second"
    print(
        f"{platform.machine()}, Python {platform.python_version()}, steps per {unit} through SB3"
        f"\n{'':>34}{'best':>12}{'median':>12}"
        f"\n{'DummyVecEnv of 1 RoutingEnv':>34}{best[0]:>12,.0f}{median[0]:>12,.0f}"
        f"\n{f'RoutingVecEnv of {options.envs}':>34}{best[1]:>12,.0f}{median[1]:>12,.0f}"
        f"\n{'ratio':>34}{best[1] / best[0]:>12.1f}{median[1] / median[0]:>12.1f}"
        f"\n  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"
    )


if __name__ == "__main__":
    main()
