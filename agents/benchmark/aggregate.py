"""All scenarios together: interquartile means, performance profiles, probability of improvement.

Scores are costs: a figure of a policy on one stream over that of the scenario's best rule on the same stream,
1 being as good as that rule. Intervals are bootstrap intervals in which each scenario's streams are drawn by
themselves (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agents.benchmark.standings import GAPS, SIGNIFICANT
from agents.comparison import Estimate, bootstrap

Floats = NDArray[np.float64]
FRAC_TRIMMED = 0.25
"""Of the scores at either end, which an interquartile mean leaves out."""


def interquartile_mean(scores: Sequence[Floats], seed: int = 0) -> Estimate:
    """Mean of the middle half of all scores, each scenario's ``[num_seeds]``."""
    return _stratified(scores, lambda all_scores: stats.trim_mean(all_scores, FRAC_TRIMMED, axis=-1), seed)


def probability_of_improvement(scores: Sequence[Floats], seed: int = 0) -> Estimate:
    """Chance that the policy does better than the best rule on a stream of a scenario chosen at random."""
    improved = [(score < 1.0) + 0.5 * (score == 1.0) for score in scores]
    weights = [np.full(len(each), 1.0 / len(each)) for each in improved]
    return _stratified(improved, lambda flags: flags @ np.concatenate(weights) / len(improved), seed)


def performance_profile(scores: Sequence[Floats], taus: Floats) -> Floats:
    """Share of streams on which a policy costs at most each of ``taus``, ``[num_taus]``; scenarios alike."""
    profiles = [(score[:, None] <= taus).mean(axis=0) for score in scores]
    return np.asarray(np.mean(profiles, axis=0))


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Over how many scenarios a policy is better than the best rule, and where it is worst.

    Args:
        rows: Scenario -> the policy's row of ``agents.benchmark.standings``.

    Returns:
        ``num_scenarios``; ``num_better`` and ``num_worse``: with the interval clear of zero, or worse because
        it served nobody on one of the streams; ``num_ahead``: ahead of every rule, corrected for their
        number; ``worst``: the greatest difference and its scenario; ``median_gap_closed`` and
        ``median_gap_closed_there``: of the means over seeds, None without a bound.
    """
    differences = {name: row["against_best_rule"] for name, row in rows.items() if "against_best_rule" in row}
    known = {name: each for name, each in differences.items() if None not in each}
    values = {name: np.inf if each[0] is None else each[0] for name, each in differences.items()}
    worst = max(values, key=lambda name: values[name], default=None)
    chances = [row.get("p_of_rules") for row in rows.values()]
    return {
        "num_scenarios": len(rows),
        "num_better": sum(high < 0 for _, _, high in known.values()),
        "num_worse": sum(low > 0 for _, low, _ in known.values())
        + sum(value is None for value, _, _ in differences.values()),
        "num_ahead": sum(p is not None and p <= SIGNIFICANT for p in chances),
        "worst": None if worst is None else [worst, differences[worst][0]],
        **{f"median_{key}": _median_of(rows, key) for key in GAPS},
    }


def _median_of(rows: Mapping[str, Mapping[str, Any]], key: str) -> float | None:
    """Of the estimates of this name, where there are any."""
    shares = [row[key][0] for row in rows.values() if key in row]
    return float(np.median(shares)) if shares else None


def _stratified(scores: Sequence[Floats], statistic: Any, seed: int) -> Estimate:
    """A statistic of all scores together, with its interval."""

    def of_strata(*strata: Floats, axis: int) -> Floats:
        assert axis == -1
        return np.asarray(statistic(np.concatenate(strata, axis=-1)))

    value = float(statistic(np.concatenate(scores)))
    return bootstrap(tuple(scores), of_strata, value, seed, paired=False)
