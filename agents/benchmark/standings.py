"""One scenario: every policy against the best rule, how sure that is, and how far from the bound.

The best rule is the one with the least mean over these very streams, for each figure its own: chosen with
hindsight, it is the hardest to beat. Differences and shares are of means over seeds, their intervals those
of the paired bootstrap (``agents.comparison``). ``p_of_rules`` says of what learns how likely so great a
lead over every rule is by chance: the greatest p by Holm's correction for as many comparisons as there are
rules. A winner is named among all policies but the bound;
``p_of_winner`` says of each other policy how likely so great a distance to the winner is by chance, by Holm's
correction for as many comparisons as there are other policies; 1 where it is no distance behind the winner,
because the test, which takes all streams alike, sees the other ahead of the one whose mean is least.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from agents.comparison import (
    Estimate,
    holm,
    mean_over_seeds,
    p_value,
    relative_difference,
    share_of_gap_closed,
)

Kind = Literal["rule", "learned", "bound"]
FIGURES = ("ttft_mean_s", "ttft_p99_s")
"""What policies are ranked by; the lower the better."""
OF_BOUND = "ttft_mean_s"
"""What the bound is of: it searches for the least mean, and its P99 is what comes with that."""
GAPS = ("gap_closed", "gap_closed_there")
"""Shares of the way to the bound, from the best rule and from the one that is best on the bound's streams."""
SHOWN = ("ttft_p50_s", "tpot_mean_s", "e2e_mean_s", "frac_slo_met", "frac_prefix_hits", "load_imbalance")
SHOWN_ALSO = ("num_requests", "num_failed", "num_retries", "num_preemptions")
"""Means over seeds, beside the figures."""
SIGNIFICANT = 0.05


def standings(results: pd.DataFrame, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Compare the policies of one scenario.

    Args:
        results: One row per policy and seed, ``agents.metrics.figures`` as columns; all policies on the same
            seeds, but for the bound, which may be on some of them.
        kinds: Policy -> what it is.

    Returns:
        ``seeds``; ``means``: policy -> figure -> mean over seeds; and each of ``FIGURES`` ->
        ``best_rule`` (None without one), ``winner``, ``winner_is_certain`` (corrected, at ``SIGNIFICANT``),
        ``policies``: name, the best first -> ``mean`` and ``against_best_rule`` as ``[value, low, high]``,
        ``p_of_winner``, ``p_of_rules`` (of what learns), ``gap_closed`` (of ``OF_BOUND`` alone): the share of
        the way from the best rule to the bound, on the bound's seeds, where there is one;
        ``gap_closed_there``: the same from the rule that is best on the bound's seeds alone; and
        ``beaten_by``: who did better there than the plan that was to be the bound, so that there is none.
    """
    tables = {
        str(name): rows.set_index("seed").sort_index() for name, rows in results.groupby("policy", sort=False)
    }
    return {
        "seeds": sorted({int(seed) for seed in results["seed"]}),
        "means": {
            name: {column: _plain(float(table[column].mean())) for column in (*SHOWN, *SHOWN_ALSO)}
            for name, table in tables.items()
        },
        **{
            figure: _standings(
                {name: table[figure] for name, table in tables.items()}, kinds, has_bound=figure == OF_BOUND
            )
            for figure in FIGURES
        },
    }


def best_rule(values: Mapping[str, pd.Series], kinds: Mapping[str, Kind]) -> str | None:
    """The rule with the least mean over seeds; None where there is no rule."""
    rules = [name for name in values if kinds[name] == "rule" and np.isfinite(values[name]).all()]
    return min(rules, key=lambda name: (float(values[name].mean()), name), default=None)


def _standings(
    values: Mapping[str, pd.Series], kinds: Mapping[str, Kind], *, has_bound: bool
) -> dict[str, Any]:
    """Of one figure; ``values`` are indexed by seed."""
    costs = {name: each.fillna(np.inf).mean() for name, each in values.items()}
    order = sorted(values, key=lambda name: (costs[name], name))
    best = best_rule(values, kinds)
    bound = next((values[name] for name in order if has_bound and kinds[name] == "bound"), None)
    racing = [name for name in order if kinds[name] != "bound"]
    beaten_by: list[str] = []
    gaps: dict[str, tuple[pd.Series, pd.Series]] = {}  # where each begins and ends
    if bound is not None:  # who served nobody on one of its streams did no better
        there = {name: values[name][bound.index] for name in racing}
        beaten_by = [
            name for name in racing if there[name].fillna(np.inf).mean() < bound.fillna(np.inf).mean()
        ]
        best_there = best_rule(there, kinds)
        if best is not None and best_there is not None and not beaten_by:
            gaps = dict(zip(GAPS, [(there[best], bound), (there[best_there], bound)], strict=True))
    winner, others = racing[0], racing[1:]
    p_values = holm([_p_behind(values[name], values[winner]) for name in others])
    corrected = dict(zip(others, p_values, strict=True))
    policies = {}
    for name in order:
        own = values[name]
        row: dict[str, Any] = {"kind": kinds[name], "mean": _row(mean_over_seeds(own))}
        if best is not None and name != best:
            row["against_best_rule"] = _row(relative_difference(own, values[best][own.index]))
        for key, (rule, end) in gaps.items():
            gap = _row(share_of_gap_closed(own[end.index], rule, end))
            if gap[0] is not None:
                row[key] = gap
        if kinds[name] == "learned" and (rules := [each for each in order if kinds[each] == "rule"]):
            row["p_of_rules"] = _plain(float(np.max(holm([_p_behind(values[each], own) for each in rules]))))
        if name in corrected:
            row["p_of_winner"] = _plain(corrected[name])
        policies[name] = row
    return {
        "best_rule": best,
        "winner": winner,
        "beaten_by": beaten_by,
        "winner_is_certain": bool(others) and all(p <= SIGNIFICANT for p in corrected.values()),
        "policies": policies,
    }


def _p_behind(values: pd.Series, winner: pd.Series) -> float:
    """``p_value`` of being behind the winner."""
    return 1.0 if float(np.log(values / winner).mean(skipna=False)) < 0.0 else p_value(values, winner)


def _row(estimate: Estimate) -> list[float | None]:
    return list(estimate.plain().values())


def _plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if np.isfinite(value) else None
