"""A board as a tidy table, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from agents import markdown
from agents.comparison import CONFIDENCE, NUM_RESAMPLES, Estimate
from agents.leaderboard.board import RANKED, Column, overall, overall_notes

INTERVALS = f"{CONFIDENCE:.0%}, percentile bootstrap over seeds, paired, {NUM_RESAMPLES} resamples"
"""How intervals were made."""


def tidy(columns: Sequence[Column]) -> pd.DataFrame:
    """One row per world and policy; a figure's interval stands beside it as ``_low`` and ``_high``."""
    rows = []
    for column in columns:
        for place, standing in enumerate(column.standings, 1):
            row: dict[str, object] = {"world": column.name, "place": place, "policy": standing.policy}
            row |= {"reference": column.yardstick, "num_seeds": len(column.seeds)}
            for figure in RANKED:
                row |= _spread(figure, standing.means[figure])
                row |= _spread(f"{figure}_against_reference", standing.against[figure])
            rows.append(row | dict(standing.shown))
    return pd.DataFrame(rows)


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def markdown_table(columns: Sequence[Column]) -> str:
    """The board for people: all worlds together, then each by itself."""
    parts = ["# Leaderboard", ""]
    if len(columns) > 1:
        parts += [overall_table(columns), ""]
    for column in columns:
        notes = (
            f"{len(column.seeds)} seeds; in brackets {INTERVALS}.",
            f"Requests: {column.world['requests']}.",
            *column.notes,
        )
        parts += [f"## {column.name}", "", _table(column), "", *notes, ""]
    return "\n".join(parts)


def overall_table(columns: Sequence[Column]) -> str:
    """Policies that are in every world."""
    found = overall(columns)
    if not found:
        return "No policy is in all worlds."
    lines = [("policy", "mean TTFT over the best's", "best in", "at worst")]
    lines += [
        (policy, f"{mean:.3f}", f"{num_best} of {len(columns)}", f"{worst:.3f}")
        for policy, (mean, num_best, worst) in found.items()
    ]
    notes = [
        "Ratio of mean TTFTs in each world, geometric mean over worlds; of policies that are in all.",
        *overall_notes(columns),
    ]
    return f"{markdown.table(lines)}\n\n{' '.join(notes)}"


def _table(column: Column) -> str:
    against = f"against {column.yardstick}"
    header = (
        "policy",
        "mean TTFT, s",
        against,
        "P99, s",
        against,
        "TPOT, ms",
        "E2E, s",
        "SLO met",
        "prefix hits",
    )
    lines = [header]
    for each in column.standings:
        mean, late = (each.means[figure] for figure in RANKED)
        lines.append(
            (
                each.policy,
                markdown.interval(mean, ".3f"),
                markdown.interval(each.against["ttft_mean_s"], "+.1%")
                if each.policy != column.yardstick
                else "-",
                markdown.interval(late, ".2f"),
                markdown.interval(each.against["ttft_p99_s"], "+.1%")
                if each.policy != column.yardstick
                else "-",
                f"{1e3 * each.shown['tpot_mean_s']:.1f}",
                f"{each.shown['e2e_mean_s']:.2f}",
                f"{each.shown['frac_slo_met']:.1%}",
                f"{each.shown['frac_prefix_hits']:.1%}",
            )
        )
    return markdown.table(lines)
