"""From runs to a board: a column for each world, in which all policies met the same streams.

Runs are of one world where their fleets, requests and warm-ups are alike. Within it policies are compared on
the seeds that all of them have, paired; what one run lacks, another may bring. Across worlds nothing is
averaged but ratios to the best of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np
import pandas as pd

from agents.comparison import Estimate, mean_over_seeds, relative_difference
from agents.leaderboard.runs import Run, Settings
from agents.summary import FAILED

RANKED = ("ttft_mean_s", "ttft_p99_s")
"""Figures with intervals, and with a difference to the yardstick."""
SHOWN = (
    "ttft_p50_s",
    "ttft_p90_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "frac_slo_met",
    "frac_prefix_hits",
    "num_failed",
)
"""Figures whose means over seeds are shown."""
OF_WINDOW = ["policy", "seed", "window_begins_at_s"]
MAX_TOLD = 3
"""Settings that a world's name may tell."""


@dataclass(frozen=True)
class Standing:
    """A policy in a world."""

    policy: str
    means: Mapping[str, Estimate]
    """``RANKED`` -> mean over seeds."""
    against: Mapping[str, Estimate]
    """``RANKED`` -> difference to the yardstick on the same streams, 0.1 being 10 % more."""
    shown: Mapping[str, float]
    """``SHOWN`` -> mean over seeds."""


@dataclass(frozen=True)
class Column:
    """A world and who was in it."""

    name: str
    world: Settings
    runs: Sequence[str]
    """Paths."""
    seeds: Sequence[int]
    yardstick: str
    standings: Sequence[Standing]
    """The best first."""
    over_time: pd.DataFrame
    """Mean over seeds: columns ``policy, window_begins_at_s, ttft_mean_s``."""
    notes: Sequence[str]


@dataclass
class _Entry:
    """A policy of one make in a world, from all runs that have it."""

    rows: pd.DataFrame
    """By seed."""
    paths: list[str] = field(default_factory=list)


def board(runs: Sequence[Run], yardstick: str | None = None) -> list[Column]:
    """Compare runs.

    Args:
        runs: What to compare.
        yardstick: Policy that others are compared with, where it is; None: the best of each column.

    Raises:
        ValueError: the yardstick is nowhere; runs of one world have no seed in common; or what should be the
            same episode has other figures in two runs.
    """
    worlds: dict[str, list[Run]] = {}
    for run in runs:
        worlds.setdefault(json.dumps(run.world, sort_keys=True, default=str), []).append(run)
    labels = _labels(list(worlds.values()))
    names = _names(list(worlds.values()))
    columns = [
        _column(name, of_world, labels, yardstick)
        for name, of_world in zip(names, worlds.values(), strict=True)
    ]
    known = {standing.policy for column in columns for standing in column.standings}
    if yardstick is not None and yardstick not in known:
        raise ValueError(f"reference: {yardstick!r} is none of the policies ({', '.join(sorted(known))})")
    return columns


def differing(settings: Sequence[Settings]) -> list[str]:
    """The names of settings that are not alike in all of them."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({repr(each.get(name)) for each in settings}) > 1]


def overall(columns: Sequence[Column]) -> dict[str, tuple[float, int, float]]:
    """Policies that are in every column, and served requests on all of its streams, the best first.

    Returns:
        Policy -> the geometric mean over columns of its mean TTFT over that of the column's best, in how many
        it is the best, and the greatest such ratio.
    """
    ratios: dict[str, list[float]] = {}
    for column in columns:
        best = least(column, "ttft_mean_s")
        for each in column.standings:
            if not isnan(mean := each.means["ttft_mean_s"].value):
                ratios.setdefault(each.policy, []).append(mean / best)
    everywhere = {policy: np.array(each) for policy, each in ratios.items() if len(each) == len(columns)}
    found = {
        policy: (float(np.exp(np.log(each).mean())), int((each == 1.0).sum()), float(each.max()))
        for policy, each in everywhere.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def overall_notes(columns: Sequence[Column]) -> list[str]:
    """What a reader of what is said of all columns together must know."""
    failed = [column.name for column in columns if FAILED in column.notes]
    if not failed:
        return []
    return [f"Requests failed in {', '.join(failed)}: who loses the slow ones has the lower TTFT there."]


def least(column: Column, figure: str) -> float:
    """The least of the means; NaN where no policy served requests on all streams."""
    means = (each.means[figure].value for each in column.standings)
    return min((mean for mean in means if not isnan(mean)), default=nan)


def _labels(worlds: Sequence[Sequence[Run]]) -> dict[tuple[str, str, str], str]:
    """(path, name and policy) of a run -> policy, with the settings by which those of one name are unlike."""
    told: dict[str, dict[str, None]] = {}
    for runs in worlds:
        for policy in {policy for run in runs for policy in run.policies}:
            makes = [run.policies[policy] for run in runs if policy in run.policies]
            told.setdefault(policy, {}).update(dict.fromkeys(differing(makes)))
    labels = {}
    for run in (run for runs in worlds for run in runs):
        for policy, settings in run.policies.items():
            words = ", ".join(f"{name}={settings.get(name)}" for name in told[policy])
            labels[str(run.path), run.name, policy] = f"{policy} ({words})" if words else policy
    return labels


def _names(worlds: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each world; those of one name by up to ``MAX_TOLD`` settings that differ, else by number."""
    names = [runs[0].name for runs in worlds]
    found = []
    for place, (name, runs) in enumerate(zip(names, worlds, strict=True)):
        alike = [other for other, of_other in zip(worlds, names, strict=True) if of_other == name]
        told = [key for key in differing([other[0].world for other in alike]) if key != "requests"]
        words = [", ".join(f"{key}={held[0].world.get(key)}" for key in told) for held in (runs, *alike)]
        if len(alike) == 1:
            found.append(name)
        elif len(told) <= MAX_TOLD and len(set(words)) == len(alike):
            found.append(f"{name} ({words[0]})")
        else:
            found.append(f"{name} ({1 + names[:place].count(name)})")
    return found


def _column(
    name: str, runs: Sequence[Run], labels: Mapping[tuple[str, str, str], str], yardstick: str | None
) -> Column:
    entries: dict[str, _Entry] = {}
    curves = [pd.DataFrame(columns=[*OF_WINDOW, "ttft_mean_s", "window_s"])]
    for run in runs:
        for policy, rows in run.results.groupby("policy", sort=False):
            label = labels[str(run.path), run.name, str(policy)]
            by_seed = rows.drop(columns="policy").set_index("seed").sort_index()
            _join(entries, label, by_seed, str(run.path))
            if run.over_time is not None:
                curves.append(run.over_time[run.over_time["policy"] == policy].assign(policy=label))
    seeds = _common_seeds(name, entries)
    tables = {label: entry.rows.loc[seeds] for label, entry in entries.items()}
    has_failed = any((table["num_failed"] > 0).any() for table in tables.values())
    figure, sign = ("frac_slo_met", -1.0) if has_failed else ("ttft_mean_s", 1.0)
    means = {label: sign * float(table[figure].mean()) for label, table in tables.items()}
    order = sorted(tables, key=lambda label: np.inf if np.isnan(means[label]) else means[label])
    reference = yardstick if yardstick in tables else order[0]
    curve = pd.concat(curves, ignore_index=True)
    windows_s = sorted(curve["window_s"].unique())
    curve = curve[curve["window_s"].isin(windows_s[-1:])].drop_duplicates(OF_WINDOW)
    by_window = curve[curve["seed"].isin(seeds)].groupby(["policy", "window_begins_at_s"], sort=False)
    notes = list(_notes(entries, tables, seeds, has_failed))
    if len(windows_s) > 1:
        notes.append(
            f"Curves are of runs with windows of {windows_s[-1]:g} s; others have {windows_s[:-1]} s."
        )
    if yardstick not in (None, reference):
        notes.append(f"{yardstick} was not in this world: the others are compared with {reference}.")
    return Column(
        name=name,
        world=runs[0].world,
        runs=[str(run.path) for run in runs],
        seeds=seeds,
        yardstick=reference,
        standings=[_standing(label, tables[label], tables[reference]) for label in order],
        over_time=by_window["ttft_mean_s"].mean().reset_index(),
        notes=notes,
    )


def _join(entries: dict[str, _Entry], label: str, rows: pd.DataFrame, path: str) -> None:
    """Take a policy's rows from a run; other runs may have had some of them before."""
    if label not in entries:
        entries[label] = _Entry(rows, [path])
        return
    entry = entries[label]
    both = entry.rows.index.intersection(rows.index)
    columns = entry.rows.columns.intersection(rows.columns)
    if not entry.rows.loc[both, columns].equals(rows.loc[both, columns]):
        raise ValueError(
            f"{label} has other figures in {path} than in {entry.paths[0]}, in the same world and on the same"
            " seeds: they were made by different versions; evaluate one of them anew"
        )
    entry.rows = pd.concat([entry.rows, rows.drop(both)]).sort_index()
    entry.paths.append(path)


def _common_seeds(name: str, entries: Mapping[str, _Entry]) -> list[int]:
    common = set.intersection(*(set(entry.rows.index) for entry in entries.values()))
    if not common:
        seeds = "; ".join(f"{label}: {sorted(entry.rows.index)}" for label, entry in entries.items())
        raise ValueError(
            f"{name}: no seed is common to all, so they cannot be compared ({seeds});"
            " evaluate them on common ones, or leave a run out"
        )
    return sorted(int(seed) for seed in common)


def _notes(
    entries: Mapping[str, _Entry], tables: Mapping[str, pd.DataFrame], seeds: Sequence[int], has_failed: bool
) -> Iterator[str]:
    """What a reader of the column must know."""
    for label, entry in entries.items():
        if left_out := [int(seed) for seed in entry.rows.index if seed not in seeds]:
            yield f"Seeds {left_out} of {label} are left out: not all policies have them."
    counts = pd.DataFrame({label: table["num_requests"] for label, table in tables.items()})
    if (counts.min(axis=1) != counts.max(axis=1)).any():
        yield (
            "Policies met different numbers of requests on the same seed: arrivals answer to the policy"
            " (closed loop), or one run had another trace file."
        )
    if has_failed:
        yield FAILED


def _standing(label: str, table: pd.DataFrame, reference: pd.DataFrame) -> Standing:
    return Standing(
        label,
        {figure: mean_over_seeds(table[figure]) for figure in RANKED},
        {figure: relative_difference(table[figure], reference[figure]) for figure in RANKED},
        {figure: float(table[figure].mean()) for figure in SHOWN},
    )
