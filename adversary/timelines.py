"""An attack over time: what the attacker did, what each router did, what users felt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adversary.attack import Attack
from adversary.cells import play
from adversary.harm import Floats
from adversary.scenario import Scenario
from adversary.trace import AttackTrace

MOST_KNOBS = 8


def timeline(
    scenario: Scenario, victim: str, others: Sequence[str], attack: Attack, seed: int, folder: Path
) -> dict[str, Any]:
    """Play an attack once more and look at it window by window, ``churn_window_s`` each.

    Args:
        scenario: The world.
        victim: Whom the attack harmed.
        others: Routers shown beside it: in the same world, and deceived by the same liar.
        attack: What was done.
        seed: Of the stream.
        folder: Where the attacks lie.
    """
    width_s = float(scenario.config.churn_window_s)
    num_windows = int(np.ceil(scenario.config.duration_s / width_s))
    starts_s = width_s * np.arange(num_windows)
    routers: dict[str, Any] = {}
    knobs: dict[str, list[float]] = {}
    for name in (victim, *others):
        played = play(scenario, name, attack, 1.0, seed, folder)
        ledger = played.rollout.ledger
        routers[name] = _router(ledger, scenario.num_instances, width_s, num_windows)
        if name == victim and played.trace is not None:
            knobs = _knobs(played.trace, ledger, width_s, num_windows)
    return {
        "title": f"{victim} under {attack.name}",
        "victim": victim,
        "attack": attack.name,
        "threat": attack.threat,
        "time_s": starts_s.tolist(),
        "knobs": knobs,
        "routers": routers,
    }


def _router(ledger: pd.DataFrame, num_instances: int, width_s: float, num_windows: int) -> dict[str, Any]:
    window = np.minimum((ledger["arrived_at_s"] // width_s).to_numpy(np.int64), num_windows - 1)
    counts = np.zeros((num_windows, num_instances))
    np.add.at(counts, (window, ledger["instance"].to_numpy()), 1.0)
    totals = counts.sum(axis=1)
    served = (ledger["failure"] == "").to_numpy()
    ttft_s = ledger["ttft_s"].to_numpy()
    sums, nums = np.zeros(num_windows), np.zeros(num_windows)
    np.add.at(sums, window[served], ttft_s[served])
    np.add.at(nums, window[served], 1.0)
    arrived = ledger["arrived_at_s"].to_numpy()
    return {
        "share": (counts / np.maximum(totals, 1.0)[:, None]).T.tolist(),
        "waiting": _waiting(arrived[served], (arrived + ttft_s)[served], width_s, num_windows).tolist(),
        "ttft_s": [float(total / num) if num else None for total, num in zip(sums, nums, strict=True)],
    }


def _waiting(begins_s: Floats, ends_s: Floats, width_s: float, num_windows: int) -> Floats:
    """Requests waiting for their first token, in the mean over each window."""
    edges_s = width_s * np.arange(num_windows + 1)
    overlap = np.minimum(ends_s[:, None], edges_s[None, 1:]) - np.maximum(
        begins_s[:, None], edges_s[None, :-1]
    )
    waited: Floats = np.maximum(overlap, 0.0).sum(axis=0) / width_s
    return waited


def _knobs(
    trace: AttackTrace, ledger: pd.DataFrame, width_s: float, num_windows: int
) -> dict[str, list[float]]:
    """The knobs that were turned most, in the mean over each window."""
    if trace.level == "world":
        at_s = trace.step_s * np.arange(len(trace.values))
    else:
        at_s = ledger["arrived_at_s"].to_numpy()[: len(trace.values)]
    still = np.array([knob.neutral for knob in trace.knobs])
    width = np.array([knob.high - knob.low for knob in trace.knobs])
    turned = (np.abs(trace.values - still) / width).mean(axis=0)
    most = [place for place in np.argsort(-turned, kind="stable")[:MOST_KNOBS] if turned[place] > 0.0]
    last = np.searchsorted(at_s, width_s * np.arange(num_windows), side="right") - 1
    found = {}
    for place in most:
        sums, nums = np.zeros(num_windows), np.zeros(num_windows)
        window = np.minimum((at_s // width_s).astype(np.int64), num_windows - 1)
        np.add.at(sums, window, trace.values[:, place])
        np.add.at(nums, window, 1.0)
        held = trace.values[np.maximum(last, 0), place]
        found[trace.knobs[place].name] = np.where(nums > 0, sums / np.maximum(nums, 1.0), held).tolist()
    return found
