"""How many times better than one rule, over fleets of one kind and mixed ones: the form that papers report.

A scenario's speedup is the rule's figure over the policy's, both means over the seeds that both were played
on: 2 is half the time. The papers' rule is seldom the best one; ``agents.benchmark.standings`` compares with
that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from agents.benchmark.standings import FIGURES

HOMOGENEOUS, HETEROGENEOUS = "homogeneous", "heterogeneous"


def fleet_of(instances: Mapping[str, Any]) -> str:
    """Of a cluster's ``instances``, kind -> settings: are they all of one kind?"""
    return HOMOGENEOUS if len(instances) == 1 else HETEROGENEOUS


def speedups(
    scenarios: Mapping[str, pd.DataFrame], fleets: Mapping[str, str], reference: str
) -> dict[str, Any]:
    """Sum up the speedups of every policy.

    Args:
        scenarios: Name -> one row per policy and seed, ``agents.metrics.figures`` as columns.
        fleets: Name -> ``fleet_of``.
        reference: The policy that others are held against.

    Returns:
        Fleet -> policy -> figure -> ``mean``, ``best`` and ``worst`` over those scenarios in which both ran
        and have a figure; the reference itself is left out.
    """
    ratios: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, table in scenarios.items():
        by_policy = {
            str(policy): rows.set_index("seed")[list(FIGURES)] for policy, rows in table.groupby("policy")
        }
        if reference not in by_policy:
            continue
        theirs = by_policy.pop(reference)
        for policy, own in by_policy.items():
            seeds = own.index.intersection(theirs.index)
            their_means, means = (each.loc[seeds].mean(skipna=False) for each in (theirs, own))
            for figure in FIGURES:
                speedup = their_means[figure] / means[figure]
                if np.isfinite(speedup):
                    of_policy = ratios.setdefault(fleets[name], {}).setdefault(policy, {})
                    of_policy.setdefault(figure, []).append(float(speedup))
    return {
        fleet: {
            policy: {figure: _summed_up(each) for figure, each in figures.items()}
            for policy, figures in policies.items()
        }
        for fleet, policies in sorted(ratios.items(), reverse=True)
    }


def _summed_up(ratios: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(ratios)), "best": max(ratios), "worst": min(ratios)}
