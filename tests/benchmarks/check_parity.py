"""Do exported policies decide as those that they were made of? On 100,000 recorded observations of each kind.

    make parity
    python -m tests.benchmarks.check_parity [--observations 100000] [--only network]

The observations are those of a mixed fleet of eight under load, routed by a rule that leaves much to chance.
Compared are the policy as the environment runs it, its bundle by NumPy, its ONNX model by onnxruntime, and
the router's guard with that bundle. Ends with status 1 where any decides otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_module
from tqdm import tqdm

from agents.build_env import build_env
from agents.config import register
from agents.export import bundle, writing
from agents.export.parity import Parity, observe, onnx_decisions
from agents.heuristics.dynamo_cost import DynamoCost
from agents.heuristics.least_in_flight import LeastInFlight
from agents.markdown import table
from agents.policy import Decision, Policy
from agents.program import use_one_thread
from agents.router.guard import Guard, GuardSettings
from envs.observation import Observation
from tests.agents.export.exported import KINDS, export_of

UNGUARDED = GuardSettings(holdout=0.0, check_range=False, max_decision_s=60.0)


def recorded(num: int) -> list[Observation]:
    """Observations of the demo's fleet."""
    register()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("export", ["workload.num_requests=5000", "workload.rate_per_s=12"])
    env = build_env(config)
    return observe(env, DynamoCost(temperature=0.3), 0, num)


def greedy(name: str) -> Policy:
    """The policy, without exploration."""
    policy = KINDS[name]()
    if hasattr(policy, "exploration"):
        policy._epsilon = policy.min_epsilon = 0.0  # type: ignore[attr-defined]
    policy.reset(np.random.default_rng(0))
    return policy


def compare(name: str, observations: Sequence[Observation], folder: Path) -> Iterator[tuple[str, Parity]]:
    """Compare all ways to compute one policy with the first."""
    policy = greedy(name)
    writing.write(folder, export_of(name), lambda part: "for a comparison\n")
    by_numpy, by_onnx = bundle.load(folder), onnx_decisions(bundle.load(folder), folder / bundle.MODEL)
    by_numpy.reset(np.random.default_rng(0))
    routed = bundle.load(folder)
    guard = Guard(routed, LeastInFlight(), UNGUARDED, np.random.default_rng(0))
    ways = {"NumPy": Parity(), "ONNX": Parity(), "router": Parity()}
    for observation in tqdm(observations, name, disable=None, leave=False):
        expected = policy.act(observation)
        ways["NumPy"].add(expected, by_numpy.act(observation))
        ways["ONNX"].add(expected, by_onnx(observation))
        choice = guard.choose(observation, 0.0)
        ways["router"].add(expected, Decision(choice.instance, choice.propensities, choice.scores))
    yield from ways.items()


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.check_parity", description=__doc__)
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    options = parser.parse_args()
    use_one_thread()
    observations = recorded(options.observations)
    lines = [["policy", "by", "observations", "different", "ties", "worst score"]]
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in KINDS if options.only in name):
            for way, parity in compare(name, observations, Path(folder) / name):
                figures = parity.num_observations, parity.num_different, parity.num_tied
                lines.append([name, way, *(f"{figure:,}" for figure in figures), f"{parity.worst_score:.1e}"])
                holds &= parity.holds
    print(table(lines))
    print("all decide alike" if holds else "NOT ALIKE")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
