"""What is told of one policy: its estimates with intervals, how much they rest on, and their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.comparison import Estimate
from agents.ope import estimators
from agents.ope.estimators import Ratio
from agents.ope.intervals import interval
from agents.ope.logged import Logged

Array = NDArray[np.float64]


def figures(
    logged: Logged,
    target: Array,
    predicted: Array,
    block: NDArray[np.int64],
    max_weight: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Evaluate one policy by all estimators.

    Args:
        logged: Decisions whose outcomes are all known.
        target: The policy's propensities there, ``[num_decisions, max_instances]``.
        predicted: What a direct model expects each instance to cost, likewise (``cross_fitted``).
        block: The stretch of each decision, ``[num_decisions]``.
        max_weight: See ``estimators.weights``.
        seed: Of the intervals.

    Returns:
        ``dr``, ``snips``, ``ips``, ``dm``, ``dr_relative_to_recorded`` (the estimate over the recorded mean
        cost, less 1) and ``mean_weight``, each with ``value``, ``low`` and ``high``;
        ``effective_sample_size``, ``greatest_weight``, ``frac_clipped`` (of the weights), ``frac_weight_cut``
        (of their sum) and ``frac_unsupported``. And one row per decision: what these are means of.
    """
    whole = estimators.weights(target, logged.propensities, logged.instance)
    weight = estimators.weights(target, logged.propensities, logged.instance, max_weight)
    dr = estimators.doubly_robust(weight, logged.cost, target, predicted, logged.instance)
    dm = estimators.direct(target, predicted)
    # Of the same stretches above and below the line: what both have in common does not widen the interval.
    relative = interval(Ratio(dr.numerator, logged.cost), block, seed)
    unsupported = estimators.unsupported(target, logged.propensities)
    ratios = {
        "dr": dr,
        "snips": estimators.snips(weight, logged.cost),
        "ips": estimators.ips(weight, logged.cost),
        "dm": dm,
        "mean_weight": Ratio(weight, np.ones(len(weight))),
    }
    told: dict[str, Any] = {name: interval(ratio, block, seed).plain() for name, ratio in ratios.items()}
    told |= {
        "dr_relative_to_recorded": Estimate(*(figure - 1 for figure in relative)).plain(),
        "effective_sample_size": estimators.effective_sample_size(weight),
        "greatest_weight": float(weight.max()),
        "frac_clipped": float((weight < whole).mean()),
        "frac_weight_cut": 1 - float(weight.sum() / max(whole.sum(), 1e-12)),
        "frac_unsupported": float(unsupported.mean()),
    }
    rows = pd.DataFrame(
        {
            "episode": logged.episode,
            "decision_id": logged.decision_id,
            "block": block,
            "cost": logged.cost,
            "weight": weight,
            "unsupported": unsupported,
            "expected": dm.numerator,
            "doubly_robust": dr.numerator,
        }
    )
    return told, rows
