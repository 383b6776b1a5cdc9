"""``python -m agents.benchmark.capacity``: how many requests per second does a scenario's fleet bear?

    python -m agents.benchmark.capacity scenarios=[equal,azure]

prints ``capacity_per_s`` and ``rates_per_s`` as they stand in the scenario's YAML: the most that any of the
rules completes per second (``agents.metrics.figures``), means over two streams of tuning, when requests come
1.1 times as fast as that. The rate is found by trying, from the capacity written there on: each time 1.1
times what was completed before, or 1.5 times where the fleet kept up, until that changes by less than 2 %, or
a fleet that kept up gets less done of more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf

from agents.benchmark.scenario import Scenario, select
from agents.build_env import build_env
from agents.cells import build_policy
from agents.config import register_policy_group
from agents.metrics import figures
from agents.processes import run_jobs
from agents.program import program
from agents.rollout import play

OVERLOAD = 1.1
KEPT_UP, RAISE = 0.97, 1.5
"""Share of the rate from which on a fleet kept up with it, and how much faster requests come then."""
TOLERANCE = 0.02
MAX_ROUNDS = 8
NUM_SEEDS = 2
LOADS = (60, 80, 95, 120)
"""Percent of the capacity, of which the rates are written down."""


class Capacity(NamedTuple):
    """What a fleet gets done."""

    per_s: float
    rule: str
    """That gets so much out of it."""
    offered_per_s: float
    """How fast requests came."""


def measure(scenarios: list[Scenario], policies: Any, num_workers: int) -> dict[Scenario, Capacity]:
    """Measure the capacity of each scenario's fleet.

    Args:
        scenarios: Which; their load does not matter.
        policies: Name -> node of the rules to try.
        num_workers: Processes.
    """
    configs = {scenario: scenario.config("tune") for scenario in scenarios}
    before = {scenario: config.scenario.capacity_per_s for scenario, config in configs.items()}
    rates = {scenario: OVERLOAD * per_s for scenario, per_s in before.items()}
    found: dict[Scenario, Capacity] = {}
    for _ in range(MAX_ROUNDS):
        arguments = []
        for scenario, rate in rates.items():
            config = configs[scenario]
            config.workload.rate_per_s = rate
            config.policies = policies
            plain = OmegaConf.to_container(config, resolve=True)
            seeds = config.seeds[:NUM_SEEDS]
            arguments += [(plain, scenario, str(name), seed) for name in policies for seed in seeds]
        completed: dict[Scenario, dict[str, list[float]]] = {scenario: {} for scenario in rates}
        for scenario, name, per_s in run_jobs(completed_per_s, arguments, num_workers, "streams"):
            completed[scenario].setdefault(name, []).append(per_s)
        for scenario, offered_per_s in list(rates.items()):
            means = {name: float(np.mean(each)) for name, each in completed[scenario].items()}
            rule = max(means, key=lambda name: means[name])
            print(f"{scenario.name}: {rule} completes {means[rule]:#.3g} of {offered_per_s:#.3g} per second")
            last = found.get(scenario)
            if last and last.per_s > max(KEPT_UP * last.offered_per_s, means[rule]):
                del rates[scenario]
                continue
            found[scenario] = Capacity(means[rule], rule, offered_per_s)
            if means[rule] > KEPT_UP * offered_per_s:
                rates[scenario] = RAISE * offered_per_s
            elif abs(means[rule] / before[scenario] - 1.0) < TOLERANCE:
                del rates[scenario]
            else:
                rates[scenario] = OVERLOAD * means[rule]
            before[scenario] = means[rule]
        if not rates:
            break
    return found


def completed_per_s(plain: Any, scenario: Scenario, name: str, seed: int) -> tuple[Scenario, str, float]:
    """What a rule completes per second on the stream of a seed; with the scenario and the rule."""
    config = OmegaConf.create(plain)
    env = build_env(config)
    rollout = play(env, build_policy(config, name), seed)
    return scenario, name, figures(rollout.ledger, len(env.cluster.traits))["completed_per_s"]


def rates_of(capacity_per_s: float) -> dict[str, float]:
    """The rates of a scenario, to three digits: load in percent -> requests per second."""
    return {str(load): float(f"{load / 100 * capacity_per_s:.3g}") for load in LOADS}


@hydra.main(version_base="1.3", config_path="../../conf", config_name="capacity")
def main(config: DictConfig) -> None:
    """Run the program; without a policy it tries the rules of ``experiment=capacity``."""
    with program("agents.benchmark.capacity"):
        scenarios = {each.name: each for each in select(config.scenarios)}
        policies = config.policies or hydra.compose("evaluate", ["experiment=capacity"]).policies
        for scenario, capacity in measure(list(scenarios.values()), policies, config.num_workers).items():
            per_s = float(f"{capacity.per_s:.3g}")
            rates = ", ".join(f'"{load}": {rate:#.3g}' for load, rate in rates_of(per_s).items())
            print(f"{scenario.name}:")
            offered = f"of {capacity.offered_per_s:#.3g} offered"
            print(f"  capacity_per_s: {per_s:#.3g}  # {capacity.rule}, {offered}")
            print(f"  rates_per_s: {{{rates}}}")


if __name__ == "__main__":
    register_policy_group()
    main()
