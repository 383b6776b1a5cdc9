"""Means over seeds with intervals, each policy against a reference, and the table that shows it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from agents import markdown
from agents.comparison import CONFIDENCE, NUM_RESAMPLES, mean_over_seeds, relative_difference

NOTABLE_OVERLAP = 0.05
"""Share of requests that two streams may have in common without a word."""
NOTABLE_LAG_S = 0.05
"""How late a live cluster may be sent a request without a word."""
FAILED = "Requests failed: latencies are of those served, and the order is by SLO met."
"""Note of a table."""
FAILURES = {"num_failed": "failed", "num_retries": "retries"}
"""Figures, means per stream, that have a column of the table where they are not 0, and its heading."""
COMPARED = ("ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_mean_s", "e2e_mean_s")


def summarise(results: pd.DataFrame, reference: str) -> dict[str, Any]:
    """Summarise the table of ``agents.evaluate``: one row per policy and seed.

    Returns:
        ``policies``: name -> figure -> ``[mean, low, high]`` over seeds, the policies by rising mean TTFT, or
        by falling share of objectives met where requests failed: who loses the slow ones has the best means;
        ``relative_to_reference``: name -> figure -> ``[difference, low, high]``, where 0.1 means 10 % more
        than the reference on the same streams; ``mean_ttft_relative``: name -> other name -> the same for
        the mean TTFT of every pair; and how the intervals were made.
    """
    tables = {str(name): rows.set_index("seed") for name, rows in results.groupby("policy", sort=False)}
    figure, sign = ("frac_slo_met", -1.0) if (results["num_failed"] > 0).any() else ("ttft_mean_s", 1.0)
    order = sorted(tables, key=lambda name: sign * float(tables[name][figure].mean()))
    columns = [name for name in results.columns if name not in ("policy", "seed")]
    return {
        "seeds": [int(seed) for seed in tables[reference].index],
        "intervals": f"{CONFIDENCE:.0%}, percentile bootstrap over seeds, paired, {NUM_RESAMPLES} resamples",
        "reference": reference,
        "policies": {
            name: {column: list(mean_over_seeds(tables[name][column])) for column in columns}
            for name in order
        },
        "relative_to_reference": {
            name: {
                column: list(relative_difference(tables[name][column], tables[reference][column]))
                for column in COMPARED
            }
            for name in order
            if name != reference
        },
        "mean_ttft_relative": {
            name: {
                other: list(relative_difference(tables[name]["ttft_mean_s"], tables[other]["ttft_mean_s"]))
                for other in order
                if other != name
            }
            for name in order
        },
    }


def markdown_table(summary: dict[str, Any], timing: pd.DataFrame) -> str:
    """The summary for people, one line per policy, the best first.

    Args:
        summary: What ``summarise`` returned, with ``workload_notes``, ``warmup_s``, ``greatest_overlap``
            and ``counters`` (policy -> counter -> number) beside it; of live clusters ``cluster_counters``.
        timing: Columns ``policy, decision_us_mean``.
    """
    reference = summary["reference"]
    decision_us = timing.groupby("policy")["decision_us_mean"].mean()
    header: tuple[str, ...] = (
        "policy",
        "mean TTFT, s",
        f"against {reference}",
        "P50",
        "P90",
        "P99",
        "TPOT, ms",
        "E2E, s",
        "SLO met",
        "prefix hits",
        "imbalance",
        "µs/decision",
    )
    failures = [  # shown where there are any
        figure
        for figure in FAILURES
        if any(values[figure][0] for values in summary["policies"].values() if figure in values)
    ]
    header = (*header, *(FAILURES[figure] for figure in failures))
    lines = [header]
    for name, values in summary["policies"].items():
        mean, low, high = values["ttft_mean_s"]
        against = "-"
        if name != reference:
            more, least, most = summary["relative_to_reference"][name]["ttft_mean_s"]
            against = f"{more:+.1%} [{least:+.1%}, {most:+.1%}]"
        lines.append(
            (
                name,
                f"{mean:.3f} [{low:.3f}, {high:.3f}]",
                against,
                *(f"{values[f'ttft_p{percentile}_s'][0]:.3f}" for percentile in (50, 90, 99)),
                f"{1e3 * values['tpot_mean_s'][0]:.1f}",
                f"{values['e2e_mean_s'][0]:.2f}",
                f"{values['frac_slo_met'][0]:.1%}",
                f"{values['frac_prefix_hits'][0]:.1%}",
                f"{values['load_imbalance'][0]:.2f}",
                f"{decision_us[name]:.0f}",
                *(f"{values[figure][0]:.1f}" for figure in failures),
            )
        )
    notes = [
        f"Means over {len(summary['seeds'])} seeds; in brackets {summary['intervals']}.",
        f"Requests: {'; '.join(summary['workload_notes'])}.",
        f"Those that arrived in the first {summary['warmup_s']:g} s are routed and not counted.",
    ]
    if "num_failed" in failures:
        notes.append(FAILED)
    overlap = summary["greatest_overlap"]
    if overlap and overlap["frac_shared"] > NOTABLE_OVERLAP:
        notes.append(
            f"The streams of seeds {overlap['seeds'][0]} and {overlap['seeds'][1]} share"
            f" {overlap['frac_shared']:.0%} of their requests, no two more: the intervals say little of other"
            " traces."
        )
    for name, counted in summary.get("cluster_counters", {}).items():
        if counted["max_lag_s"] > NOTABLE_LAG_S:
            notes.append(
                f"{name}: a request was sent {counted['max_lag_s']:.2g} s late: the policy or the machine did"
                " not keep up with the arrivals."
            )
    for name in summary["policies"]:
        fallbacks = {
            counter: number
            for counter, number in summary["counters"].get(name, {}).items()
            if counter.startswith(("fallback", "explored")) and number
        }
        if fallbacks:
            told = ", ".join(f"{counter} {number}" for counter, number in fallbacks.items())
            notes.append(f"{name} decided otherwise than by its own rule: {told}, over all seeds.")
    return "\n".join((markdown.table(lines), "", *notes, ""))
