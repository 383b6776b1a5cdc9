"""Is off-policy evaluation right? Held against the emulator, where the truth can be had.

    python -m tests.benchmarks.check_ope [--seeds 40] [--requests 250] [--rate 8] [--logging dynamo_cost]

A policy that explores routes a stream and is recorded; others are evaluated on the recording. Two truths:

* *one step*: each decision is made again as the other policy would have made it, with all earlier and later
  ones as recorded, until its request has its first token (``one_step_ttft_s``). This is what the estimators
  estimate; the table says how often their 95 % intervals hold it.
* *played*: the other policy routes the whole stream itself. The difference to the former is what one-step
  evaluation ignores: other decisions make other queues.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from agents import markdown
from agents.bandits.predictor import Training
from agents.heuristics.dynamo_cost import DynamoCost
from agents.heuristics.heuristic import Heuristic
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.heuristics.random import Random
from agents.heuristics.round_robin import RoundRobin
from agents.ope import target
from agents.ope.direct_model import Network, cross_fitted, folds
from agents.ope.figures import figures
from agents.ope.intervals import blocks
from agents.ope.logged import read
from agents.ope.report import ESTIMATORS
from agents.program import use_one_thread
from agents.recording import recorder_of
from agents.rollout import play
from envs.emulator import fleet
from envs.routing import RoutingEnv
from envs.workload import generator

FLEET = {
    "h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 16384},
    "l40s": {"count": 2, "profile": "l40s_llama-3.1-8b", "max_model_len": 16384},
}
LOGGING: dict[str, Callable[[], Heuristic]] = {
    "random": Random,
    "dynamo_cost": partial(DynamoCost, temperature=0.5),
}
TARGETS: dict[str, Callable[[], Heuristic]] = {
    "llmd_token_load": LlmdTokenLoad,
    "dynamo_cost": DynamoCost,
    "least_in_flight": LeastInFlight,
    "round_robin": RoundRobin,
}
MODEL = Network(Training((64, 64), 0.0, learning_rate=1e-3, batch_size=64, frac_validation=0.0))
NUM_BLOCKS = 30


def make_env(num_requests: int, rate_per_s: float) -> RoutingEnv:
    """Two fast and two slow instances under generated requests."""
    workload = generator.workload(
        num_requests=num_requests,
        rate_per_s=rate_per_s,
        num_generated=4000,
        start="random",
        prompt_median=2000,
        prompt_min=64,
        prompt_max=15000,
        output_median=200,
        max_model_len=16000,
    )
    return RoutingEnv(fleet.cluster(FLEET), workload)


def one_step_ttft_s(
    env: RoutingEnv, seed: int, recorded: Sequence[int], wanted: np.ndarray, known_ttft_s: np.ndarray
) -> np.ndarray:
    """TTFT of each decision's request where that one goes elsewhere, and all others go where they went.

    Args:
        env: Where the decisions were made.
        seed: Of the episode.
        recorded: The instances that they chose.
        wanted: Which other ones to try, bool ``[num_decisions, num_instances]``.
        known_ttft_s: What became of them as recorded.

    Returns:
        ``[num_decisions, num_instances]``, 0 where not wanted.
    """
    found = np.zeros(wanted.shape)
    env.reset(seed=seed)
    arrays = [value for value in vars(env.workload).values() if isinstance(value, np.ndarray)]
    unchanging = [env.observation_space, env.action_space, *arrays]  # not worth a copy
    for decision, own in enumerate(recorded):
        for instance in np.flatnonzero(wanted[decision]):
            if instance == own:
                found[decision, instance] = known_ttft_s[decision]
                continue
            fork = deepcopy(env, {id(one): one for one in unchanging})
            later = iter((instance, *recorded[decision + 1 :]))
            outcome = None
            while outcome is None:
                for feedback in fork.step(next(later))[4]["completions"]:
                    if feedback.decision_id == decision:
                        outcome = feedback
            found[decision, instance] = outcome.ttft_s
        env.step(own)
    return found


def check(env: RoutingEnv, logging: Heuristic, seed: int) -> list[dict[str, object]]:
    """Record the stream of one seed; a row per target: estimates, intervals and both truths."""
    with tempfile.TemporaryDirectory() as folder:
        with recorder_of(env, Path(folder) / "recording", "logging@0") as recorder:
            play(env, logging, seed, recorder)
        logged = read([Path(folder) / "recording"], "ttft_s", None)
    chances = {name: target.propensities(make(), name, logged, seed + 1) for name, make in TARGETS.items()}
    wanted = np.any([each > 0 for each in chances.values()], axis=0)
    one_step = one_step_ttft_s(env, seed, logged.instance.tolist(), wanted, logged.cost)
    block = blocks(logged.episode, NUM_BLOCKS)
    predicted = cross_fitted(MODEL, logged, folds(logged.episode, block, 5), seed)
    rows = []
    for name, each in chances.items():
        told, _ = figures(logged, each, predicted, block, seed=seed)
        row: dict[str, object] = {
            "policy": name,
            "recorded": logged.cost.mean(),
            "one_step": (each * one_step).sum(axis=1).mean(),
            "played": play(env, TARGETS[name](), seed).ledger["ttft_s"].mean(),
            "ess": told["effective_sample_size"],
        }
        for estimator in ESTIMATORS:
            row |= {f"{estimator}_{key}": value for key, value in told[estimator].items()}
        rows.append(row)
    return rows


def report(table: pd.DataFrame) -> str:
    """Means over seeds per policy, and how often intervals hold the one-step truth."""
    lines = [
        [
            "policy",
            "recorded",
            *ESTIMATORS.values(),
            "one step",
            "played",
            "shift",
            "ESS",
            *(f"{n} holds" for n in ESTIMATORS.values()),
        ]
    ]
    for policy, rows in table.groupby("policy", sort=False):
        truth = rows["one_step"]
        held = [((rows[f"{n}_low"] <= truth) & (truth <= rows[f"{n}_high"])).mean() for n in ESTIMATORS]
        shift = rows["played"].mean() / truth.mean() - 1
        figures = [rows["recorded"], *(rows[f"{n}_value"] for n in ESTIMATORS), truth, rows["played"]]
        lines.append(
            [
                str(policy),
                *(f"{figure.mean():.4f}" for figure in figures),
                f"{shift:+.1%}",
                f"{rows['ess'].mean():.0f}",
                *(f"{share:.0%}" for share in held),
            ]
        )
    return markdown.table(lines)


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=250)
    parser.add_argument("--rate", type=float, default=8.0)
    parser.add_argument("--logging", choices=LOGGING, default="dynamo_cost")
    options = parser.parse_args()
    use_one_thread()
    rows: list[dict[str, object]] = []
    with closing(make_env(options.requests, options.rate)) as env:
        for seed in range(options.seeds):
            rows.extend(check(env, LOGGING[options.logging](), seed))
    print(
        f"Recorded: {options.logging}, {options.requests} requests at {options.rate:g}/s, {options.seeds}"
        " seeds. Mean TTFT, s; shift: played against one step."
    )
    print(report(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
