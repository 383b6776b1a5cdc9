"""The cells of an evaluation: one policy on the stream of one seed, each in files of its own.

``cells/<policy>-<seed>.parquet`` holds what became of every request (``agents.rollout.LEDGER_COLUMNS``), the
JSON beside it the rest, with a key that says what the cell was made of: policy, training, world, seed. A cell
whose key still fits is not made again; one that is begins its recording anew too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from agents.build_env import build_env
from agents.defences.defence import innermost, learns, with_innermost
from agents.files import read_json, write_json, write_parquet
from agents.keys import key_of, made_of
from agents.online import load_learner
from agents.policy import Policy, Trainable
from agents.processes import run_jobs
from agents.recording import recorder_of
from agents.rollout import play
from agents.warm_up import warm_up
from conf.build import ConfigError, build
from envs.live.recorder import remove_recording
from envs.live.recording import HEADER


class Cell(NamedTuple):
    """One policy on the stream of one seed."""

    policy: str
    seed: int

    def path(self, directory: Path) -> Path:
        """Its ledger's file."""
        return directory / "cells" / f"{self.policy}-{self.seed}.parquet"

    def recording(self, directory: Path) -> Path:
        """Directory of its recording, where ``record`` asks for one."""
        return directory / "recordings" / f"{self.policy}-{self.seed}"


def build_policy(config: DictConfig, name: str) -> Policy:
    """The policy of this name, with what it learned in its training run if it had one.

    Where it has defences around it, what was learned goes to the policy inside.
    """
    agent = build(config.policies[name], f"policies.{name}")
    trained = config.trained.get(name)
    inside = innermost(agent)
    if isinstance(inside, Trainable):
        if trained is None:
            raise ConfigError(
                f"policies.{name}: it must be trained before; train it and give"
                f" +trained.{name}=<directory of the training run>"
            )
        return with_innermost(agent, inside.policy(Path(trained)))
    if trained is None:
        policy: Policy = agent
        return policy
    if not learns(agent):
        raise ConfigError(f"trained.{name}: {name} learns nothing; leave it out")
    return load_learner(agent, Path(trained))


def read(directory: Path, cell: Cell) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A cell's ledger and what lies beside it."""
    path = cell.path(directory)
    try:
        return pd.read_parquet(path), read_json(path.with_suffix(".json"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a whole cell ({error}); delete it to have it made anew") from error


def add_counters(totals: dict[str, float], counted: Mapping[str, float]) -> None:
    """Add what one cell's cluster counted; of what is no count (a greatest, a mean), keep the greatest."""
    for name, number in counted.items():
        is_count = name.startswith("num_")
        totals[name] = totals.get(name, 0) + number if is_count else max(totals.get(name, 0), number)


def run(config: DictConfig, directory: Path) -> list[Cell]:
    """Make the cells of all policies and seeds that are not there, or not recorded as asked; return all."""
    cells = wanted(config)
    for _ in run_jobs(make, missing(config, directory, cells), config.num_workers, "streams"):
        pass
    return cells


def wanted(config: DictConfig) -> list[Cell]:
    """The cells of all policies and seeds."""
    return [Cell(str(policy), seed) for policy in config.policies for seed in config.seeds]


def missing(config: DictConfig, directory: Path, cells: list[Cell]) -> list[tuple[Any, ...]]:
    """The arguments of ``make`` for each of the cells that is not there, or not recorded as asked."""
    arguments = []
    plain, keys = OmegaConf.to_container(config, resolve=True), keys_of(config)
    for cell in cells:
        held = _held_key(cell.path(directory))
        recorded = not config.get("record") or (cell.recording(directory) / HEADER).exists()
        if held != keys[cell] or not recorded:
            arguments.append((plain, directory, cell, keys[cell]))
        if held not in ("", keys[cell]):
            print(f"{cell.policy}, seed {cell.seed}: made of something else before; made anew")
    return arguments


def keys_of(config: DictConfig) -> dict[Cell, str]:
    """The key of each cell that is asked for."""
    made = made_of(config)
    return {cell: key_of({**made[cell.policy], "seed": cell.seed}) for cell in wanted(config)}


def _held_key(path: Path) -> str:
    """The key of the cell that is there, empty where none is."""
    side = path.with_suffix(".json")
    return str(read_json(side).get("key", "?")) if path.exists() and side.exists() else ""


def make(plain: Any, directory: Path, cell: Cell, key: str) -> None:
    """Let a cell's policy route its stream, and write what became of it.

    Args:
        plain: The config as plain values.
        directory: Of the run.
        cell: Which.
        key: What says of what it was made.
    """
    config = OmegaConf.create(plain)
    path = cell.path(directory)
    path.unlink(missing_ok=True)
    remove_recording(cell.recording(directory))  # of a cell that was another, or broke off
    with closing(build_env(config)) as env, ExitStack() as stack:
        warm_up(env)
        recorder = None
        if config.get("record"):
            version = f"{cell.policy}@{key[:16]}"
            recorder = stack.enter_context(recorder_of(env, cell.recording(directory), version))
        rollout = play(env, build_policy(config, cell.policy), cell.seed, recorder)
        cluster_counters = dict(env.cluster.counters())
    decision_us = 1e6 * rollout.decision_s
    side = {
        "key": key,
        "counters": dict(rollout.counters),
        "num_instances": len(env.cluster.traits),
        "workload_notes": list(env.workload.notes),
        "cluster_counters": cluster_counters,
        "decision_us_mean": float(decision_us.mean()),
        "decision_us_p99": float(np.percentile(decision_us, 99)),
    }
    write_json(path.with_suffix(".json"), side)
    write_parquet(path, rollout.ledger)  # last: where it is, the cell is whole
