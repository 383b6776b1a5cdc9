"""A training run that another program takes up: its config, and what was trained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agents.defences.defence import is_learned
from agents.online import load_learner
from agents.policy import Policy, Trainable
from agents.run_directory import CONFIG
from conf.build import ConfigError

WORLD = ("env", "cluster", "world", "workload", "reward")


def given_keys(overrides: Iterable[str]) -> set[str]:
    """Top-level keys, and groups, that a user set on the command line."""
    return {re.split(r"[.=@]", override.lstrip("+~"))[0] for override in overrides}


def config_of(run: Path, config: DictConfig, given: set[str]) -> DictConfig:
    """The config of a run.

    Args:
        run: Its directory.
        config: The program's.
        given: Keys that the user set: those of the world are the program's, the others the run's.
    """
    path = run / CONFIG
    if not path.exists():
        raise ConfigError(f"run: {run} holds no {CONFIG}; give the directory of a training run")
    held = OmegaConf.load(path)
    if not isinstance(held, DictConfig) or any(key not in held for key in (*WORLD, "agent")):
        raise ConfigError(f"run: {path} is not the config of a training run")
    for key in WORLD:
        if key in given:
            held[key] = config[key]
    return held


def policy_of(agent: Any, run: Path | None, key: str) -> Policy:
    """What an agent became in a run; the agent itself where it needs none.

    Args:
        agent: As built.
        run: Directory of its training run, if it had one.
        key: Of the agent in the program's config, for messages.
    """
    if isinstance(agent, Trainable):
        if run is None:
            raise ConfigError(
                f"{key}: it must be trained before; train it and give run=DIRECTORY of that run"
            )
        return agent.policy(run)
    if is_learned(agent):
        if run is None:
            raise ConfigError(f"{key}: it has learned nothing; train it and give run=DIRECTORY of that run")
        return load_learner(agent, run)
    policy: Policy = agent
    return policy
