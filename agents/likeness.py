"""How alike are two worlds that served the same requests under the same policies?

One is called real (live servers), the other modelled (the emulator). Ledgers are those of ``agents.rollout``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from agents.comparison import Estimate, mean_over_seeds, relative_difference
from agents.metrics import requests_of

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
PERCENTILES = (50, 90, 99)
PAIRED = ("num_prompt_tokens", "tenant")
"""Columns in which the two ledgers' requests must be the same, row by row."""


class Worlds(NamedTuple):
    """One policy's requests in both worlds, in the order of arrival; rows belong together."""

    real: pd.DataFrame
    modelled: pd.DataFrame


def paired(real: pd.DataFrame, modelled: pd.DataFrame, warmup_s: float) -> Worlds:
    """The requests that arrived from ``warmup_s`` on and were served in both worlds.

    Raises ``ValueError`` where the ledgers are not of the same request stream, or nothing is left.
    """
    one, other = requests_of(real), requests_of(modelled)
    if len(one) != len(other) or any((one[name] != other[name]).any() for name in PAIRED):
        raise ValueError(
            f"the two worlds did not get the same requests ({len(one)} and {len(other)}): a closed loop"
            " sends other requests where other answers come first; use a workload in open loop"
        )
    kept = (other["arrived_at_s"] >= warmup_s) & (one["failure"] == "") & (other["failure"] == "")
    if not kept.any():
        raise ValueError(f"no request that arrived after warmup_s = {warmup_s} was served in both worlds")
    return Worlds(one[kept], other[kept])


def latencies(worlds: Sequence[Worlds]) -> dict[str, Any]:
    """Compare the distributions of one policy's latencies, all seeds' requests together.

    Returns:
        latency -> ``mean``, ``p50``, ``p90``, ``p99`` -> ``real``, ``modelled`` and ``relative``, the
        modelled over the real less 1 (of the mean also ``low`` and ``high``, a paired bootstrap interval over
        requests), and ``ks``, the greatest distance between the two distribution functions.
    """
    result: dict[str, Any] = {}
    for name in LATENCIES:
        real = np.concatenate([world.real[name] for world in worlds])
        modelled = np.concatenate([world.modelled[name] for world in worlds])
        if not real.any():  # TPOT where every answer is one token
            continue
        difference = relative_difference(modelled, real)
        rows: dict[str, Any] = {
            "mean": {"real": float(real.mean()), "modelled": float(modelled.mean())}
            | dict(zip(("relative", "low", "high"), difference, strict=True))
        }
        for percentile in PERCENTILES:
            one, other = (float(np.percentile(values, percentile)) for values in (real, modelled))
            rows[f"p{percentile}"] = {"real": one, "modelled": other, "relative": other / one - 1}
        rows["ks"] = float(stats.ks_2samp(real, modelled).statistic)
        result[name] = rows
    return result


def prefix_hits(worlds: Sequence[Worlds]) -> dict[str, float]:
    """Compare the prompt tokens found in prefix caches.

    Returns:
        ``real``, ``modelled``: tokens in all; ``relative``: the modelled over the real less 1;
        ``num_different``: requests, of ``num_requests``, that found another number in the one than in the
        other.
    """
    real = np.concatenate([world.real["num_cached_tokens"] for world in worlds])
    modelled = np.concatenate([world.modelled["num_cached_tokens"] for world in worlds])
    total, other = int(real.sum()), int(modelled.sum())
    return {
        "real": total,
        "modelled": other,
        "relative": other / total - 1 if total else float(other > 0),
        "num_different": int((real != modelled).sum()),
        "num_requests": len(real),
    }


def ranking(mean_s: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Do both worlds choose the same winners?

    Args:
        mean_s: Policy -> ``real`` and ``modelled`` -> its mean latency, one per seed.

    Returns:
        ``real`` and ``modelled``: the policies by rising mean, each with its interval over seeds;
        ``kendall``: Kendall's tau between the two orders; ``num_pairs``; ``num_decided``: pairs of policies
        whose intervals do not overlap in the real world; ``disagreements``: those of them that the modelled
        world orders the other way round.
    """
    intervals = {
        side: {name: mean_over_seeds(means[side]) for name, means in mean_s.items()}
        for side in ("real", "modelled")
    }
    decided, disagreements = 0, []
    for one, other in combinations(mean_s, 2):
        first, second = intervals["real"][one], intervals["real"][other]
        if _overlap(first, second):
            continue
        decided += 1
        difference = intervals["modelled"][one].value - intervals["modelled"][other].value
        if (first.value - second.value) * difference <= 0:
            disagreements.append([one, other])
    names = list(mean_s)
    tau = stats.kendalltau(*([intervals[side][name].value for name in names] for side in intervals))
    return {
        side: {name: list(rows[name]) for name in sorted(names, key=lambda name: rows[name].value)}
        for side, rows in intervals.items()
    } | {
        "kendall": float(tau.statistic),
        "num_pairs": len(names) * (len(names) - 1) // 2,
        "num_decided": decided,
        "disagreements": disagreements,
    }


def _overlap(one: Estimate, other: Estimate) -> bool:
    """Whether two intervals overlap; where there is none (one seed), the means are taken by the letter."""
    if np.isnan([one.low, other.low]).any():
        return one.value == other.value
    return one.low <= other.high and other.low <= one.high
