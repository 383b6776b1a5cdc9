"""Runs whose results can be compared: evaluations, and the scenarios of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from agents.evaluate import WORLD
from agents.files import read_json
from agents.run_directory import CONFIG

RESULTS = "results.parquet"
NEEDED = {"policy", "seed", "ttft_mean_s", "num_requests"}
"""Columns of results of policies on streams; attackers' have others."""
Settings = Mapping[str, Any]
"""Name of a setting, with dots where it is nested -> value."""


class Run(NamedTuple):
    """Policies on the same streams."""

    path: Path
    name: str
    """What its world is called: a scenario, or the name of the evaluation."""
    world: Settings
    """All that its streams and its figures follow from, but for the seeds."""
    policies: Mapping[str, Settings]
    """Policy -> its settings, and the run that trained it."""
    results: pd.DataFrame
    """One row per policy and seed, ``agents.metrics.figures`` as columns."""
    over_time: pd.DataFrame | None
    """Columns ``policy, seed, window_begins_at_s, ttft_mean_s``; None where that was not kept."""


def find(paths: Sequence[Path]) -> list[Run]:
    """The runs in these directories and in those below them.

    Raises:
        ValueError: a directory is not there, or holds no results.
    """
    found: dict[Path, list[Run]] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: there is no such directory; give those of evaluations or benchmarks")
        directories = [each.parent for each in sorted(path.rglob(RESULTS))]
        runs = {directory.resolve(): _read(directory) for directory in directories}
        if not any(runs.values()):
            raise ValueError(f"{path}: no results of policies in it; make them by routegym-evaluate")
        found |= runs
    return [run for runs in found.values() for run in runs]


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Nested values by their dotted names; lists are values."""
    if not isinstance(node, Mapping):
        return {path: node}
    return {
        name: value
        for key, child in node.items()
        for name, value in flat(child, f"{path}.{key}" if path else str(key)).items()
    }


def _read(directory: Path) -> list[Run]:
    """The run in a directory, or one per scenario of a benchmark; none where it is something else."""
    results = pd.read_parquet(directory / RESULTS)
    if not set(results.columns) >= NEEDED:
        return []
    summary = read_json(directory / "summary.json")
    if "scenario" not in results.columns:
        return [_run(directory, _config(directory), "", results, summary["workload_notes"])]
    runs = []
    for (scenario, load), rows in results.groupby(["scenario", "load"], sort=False):
        name = f"{scenario}@{load}"
        notes = summary["scenarios"][name]["workload_notes"]
        rows = rows.drop(columns=["scenario", "load"])
        runs.append(_run(directory, _config(directory / name), name, rows, notes))
    return runs


def _config(directory: Path) -> DictConfig:
    path = directory / CONFIG
    if not path.exists():
        raise ValueError(f"{directory}: has no {CONFIG}, so what its streams are cannot be told")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def _run(directory: Path, config: DictConfig, name: str, results: pd.DataFrame, notes: Any) -> Run:
    plain: Any = OmegaConf.to_container(config)
    world = {key: plain.get(key) for key in (*WORLD, "warmup_s")}
    trained = plain.get("trained") or {}
    policies = {
        policy: flat(node) | ({"trained": trained[policy]} if policy in trained else {})
        for policy, node in plain["policies"].items()
    }
    curve = directory / "ttft_over_time.parquet"
    return Run(
        directory,
        name or str(plain["name"]),
        flat(world) | {"requests": "; ".join(notes)},
        policies,
        results,
        pd.read_parquet(curve) if curve.exists() else None,
    )
