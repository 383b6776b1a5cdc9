"""Let a learner learn while it routes, episode after episode, in a run that can be taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from agents import checkpoint
from agents.policy import Learner
from agents.rollout import play
from envs.routing import RoutingEnv

CHECKPOINT = "learner.npz"


def learn_online(
    learner: Learner,
    make_env: Callable[[int], RoutingEnv],
    seed: int,
    directory: Path,
    total_timesteps: int | None,
    progress: Callable[[int, Mapping[str, float]], None],
) -> None:
    """Route whole episodes until ``total_timesteps`` decisions are made (null: one episode).

    A checkpoint is written after each episode, and every episode follows from ``seed`` and its number: a
    run that was killed goes on from the last one and ends in the same bytes. ``progress`` is told the
    number of decisions made, with the episode's figures at its end and nothing in between.
    """
    path = directory / CHECKPOINT
    num_episodes = num_decisions = 0
    if path.exists():
        saved = checkpoint.load(path)
        num_episodes, num_decisions = saved["num_episodes"], saved["num_decisions"]
        learner.load_state(saved["learner"])
        progress(num_decisions, {})
    env = make_env(0)
    while num_episodes == 0 or num_decisions < (total_timesteps or 0):
        episode_seed = int(np.random.SeedSequence((seed, num_episodes)).generate_state(1, np.uint32)[0])
        rollout = play(env, learner, episode_seed, partial(_report, progress, num_decisions))
        num_episodes += 1
        num_decisions += len(rollout.ledger)
        checkpoint.save(
            path,
            {"num_episodes": num_episodes, "num_decisions": num_decisions, "learner": learner.state()},
        )
        figures = {"ttft_mean_s": float(rollout.ledger["ttft_s"].mean())}
        progress(num_decisions, figures | {name: float(number) for name, number in rollout.counters.items()})


def _report(progress: Callable[[int, Mapping[str, float]], None], before: int, number: int) -> None:
    progress(before + number, {})


def load_learner(learner: Learner, directory: Path) -> Learner:
    """Give a learner what it learned in a training run."""
    learner.load_state(checkpoint.load(directory / CHECKPOINT)["learner"])
    return learner
