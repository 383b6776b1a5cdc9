"""Runs whose results can be compared: evaluations, and the scenarios of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from omegaconf import DictConfig, OmegaConf

from agents.evaluate import WORLD
from agents.files import read_json
from agents.run_directory import CONFIG

RESULTS, SUMMARY = "results.parquet", "summary.json"
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
    """Columns ``policy, seed, window_begins_at_s, ttft_mean_s, window_s``; None where that was not kept."""


def find(paths: Sequence[Path]) -> list[Run]:
    """The runs in these directories and in those below them; results of other programs are passed over.

    Raises:
        ValueError: a directory is not there or holds no results, or a run in it is not whole.
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
    results = _table(directory / RESULTS)
    if not set(results.columns) >= NEEDED:
        return []
    if "scenario" not in results.columns:
        config = _config(directory)
        if "reference" not in config:  # of a distillation, whose config does not tell what its rules are
            return []
        return [_run(directory, config, "", results, _summary(directory)["workload_notes"])]
    runs, scenarios = [], _summary(directory)["scenarios"]
    for (scenario, load), rows in results.groupby(["scenario", "load"], sort=False):
        name = f"{scenario}@{load}"
        if name not in scenarios:
            raise _unfinished(directory, f"{SUMMARY} says nothing of {name}")
        kinds = {policy: row["kind"] for policy, row in scenarios[name]["ttft_mean_s"]["policies"].items()}
        is_router = rows["policy"].map(kinds) != "bound"  # it races with none, on fewer seeds
        rows = rows[is_router].drop(columns=["scenario", "load"])
        notes = scenarios[name]["workload_notes"]
        runs.append(_run(directory, _config(directory / name), name, rows, notes))
    return runs


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a whole table ({error}); evaluate anew") from error


def _unfinished(directory: Path, reason: str) -> ValueError:
    return ValueError(f"{directory}: {reason}: the run was stopped before its end; take it up again")


def _summary(directory: Path) -> Any:
    if not (directory / SUMMARY).exists():
        raise _unfinished(directory, f"has {RESULTS} and no {SUMMARY}")
    return read_json(directory / SUMMARY)


def _config(directory: Path) -> DictConfig:
    path = directory / CONFIG
    if not path.exists():
        raise ValueError(f"{directory}: has no {CONFIG}, so what its streams are cannot be told")
    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a config ({error}); evaluate anew") from error
    if not isinstance(config, DictConfig) or "policies" not in config:
        raise ValueError(f"{path}: not the config of an evaluation; evaluate anew")
    return config


def _run(directory: Path, config: DictConfig, name: str, results: pd.DataFrame, notes: Any) -> Run:
    plain: Any = OmegaConf.to_container(config)
    world = {key: plain.get(key) for key in (*WORLD, "warmup_s")}
    if unknown := sorted(set(results["policy"]) - set(plain["policies"])):
        raise _unfinished(directory, f"has results of {', '.join(unknown)}, but its {CONFIG} has not")
    trained = plain.get("trained") or {}
    policies = {
        policy: flat(node) | ({"trained": trained[policy]} if policy in trained else {})
        for policy, node in plain["policies"].items()
    }
    path = directory / "ttft_over_time.parquet"
    curve = _table(path).assign(window_s=plain["window_s"]) if path.exists() else None
    return Run(
        directory,
        name or str(plain["name"]),
        flat(world) | {"requests": "; ".join(notes)},
        policies,
        results,
        curve,
    )
