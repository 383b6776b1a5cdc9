"""The figures of an off-policy evaluation for people, and when not to believe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import markdown

MIN_SAMPLES, MIN_FRAC_SAMPLES = 50, 0.01
"""Effective sample size, and its share of the decisions, below which weighted estimates are not trusted: with
fewer, intervals held the truth of ``tests/benchmarks/check_ope.py`` in four of five cases, not 19 of 20."""
MEAN_WEIGHT_MARGIN = 0.05
"""By how much the weights' mean may differ from 1, which it is in truth, whatever its interval says."""
FEW_BLOCKS = 20
UNITS = {"ttft_s": "TTFT, s", "e2e_s": "E2E, s", "slo_miss": "SLO misses"}
ESTIMATORS = {"dr": "doubly robust", "snips": "SNIPS", "ips": "IPS", "dm": "direct model"}


def is_too_thin(result: Mapping[str, Any], num_decisions: int) -> bool:
    """Whether too few recorded decisions are as the policy's own for any estimate by weights."""
    least = max(MIN_SAMPLES, MIN_FRAC_SAMPLES * num_decisions)
    return bool(result["effective_sample_size"] < least)


def reasons_for_doubt(result: Mapping[str, Any], num_decisions: int) -> list[str]:
    """Why one policy's figures may be wrong beyond their intervals, in sentences."""
    reasons = []
    if is_too_thin(result, num_decisions):
        reasons.append(
            f"its decisions are worth {result['effective_sample_size']:.0f} recorded ones of {num_decisions}:"
            " too few to tell; only the direct model says something, and nothing checks it"
        )
    mean = result["mean_weight"]
    off = abs(mean["value"] - 1) > MEAN_WEIGHT_MARGIN
    if off and result["frac_clipped"] + result["frac_unsupported"] == 0 and _excludes_one(mean):
        reasons.append(
            f"its weights' mean is {mean['value']:.2f}, where it should be 1: it chooses what was hardly ever"
            " recorded, or the recorded propensities are not the true ones"
        )
    if result["frac_unsupported"] > 0:
        reasons.append(
            f"{result['frac_unsupported']:.2%} of its decisions go where none could have been recorded: IPS"
            " takes them to cost nothing, SNIPS to cost what the others do"
        )
    if result["frac_clipped"] > 0:
        reasons.append(
            f"{result['frac_clipped']:.1%} of its weights are cut, and {result['frac_weight_cut']:.1%} of"
            " their sum with them: IPS is too low by about that share, DR as wrong as the model is there"
        )
    return reasons


def _excludes_one(mean: Mapping[str, float | None]) -> bool:
    low, high = mean["low"], mean["high"]
    return low is not None and high is not None and not low <= 1 <= high


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The summary, one line per policy, the best first by the doubly robust estimate."""
    unit = UNITS[summary["cost"]]
    header = ["policy", *ESTIMATORS.values(), "DR against recorded", "ESS", "greatest weight", "mean weight"]
    recorded = ["(as recorded)", _estimate(summary["recorded"]), "-", "-", "-", "-"]
    lines = [header, [*recorded, f"{summary['num_decisions']}", "1.0", "1.00"]]
    for name, result in summary["policies"].items():
        thin = is_too_thin(result, summary["num_decisions"])
        relative = result["dr_relative_to_recorded"]
        lines.append(
            [
                f"{name} (!)" if result["warnings"] else name,
                *(_estimate(result[key], "?" if thin and key != "dm" else "") for key in ESTIMATORS),
                "?" if thin else _percent(relative),
                f"{result['effective_sample_size']:.0f}",
                f"{result['greatest_weight']:.1f}",
                f"{result['mean_weight']['value']:.2f}",
            ]
        )
    notes = [
        f"Mean {unit}, per decision; in brackets {summary['confidence']:.0%}, percentile bootstrap over"
        f" {summary['num_blocks']} stretches of {summary['num_decisions']} decisions in"
        f" {summary['num_episodes']} episode{'s' if summary['num_episodes'] > 1 else ''}.",
        "Each decision is judged alone, with all others as recorded: what a policy would make of the queues"
        " by deciding everything is not in these figures, and may well outweigh them.",
        "The direct model's interval does not hold its own error: of the recorded costs' variance it explains"
        f" {summary['direct_model_r2']:.0%}. ESS: effective sample size (Kish).",
    ]
    if summary["failed_s"] is not None and summary["cost"] != "slo_miss":
        notes.append(f"A request that failed counts as {summary['failed_s']:g} s.")
    if summary["num_without_outcome"]:
        notes.append(
            f"{summary['num_without_outcome']} further decisions have no known outcome, as where a recording"
            " broke off, and are left out: those of long requests more often than others."
        )
    if summary["num_blocks"] < FEW_BLOCKS:
        notes.append(f"{summary['num_blocks']} stretches are few: intervals are too narrow.")
    for name, result in summary["policies"].items():
        notes.extend(f"(!) {name}: {reason}." for reason in result["warnings"])
    return "\n".join((markdown.table(lines), "", *notes, ""))


def _estimate(estimate: Mapping[str, float | None], doubt: str = "") -> str:
    """An estimate with its interval; with its doubt instead where there is one."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "?"
    if doubt or low is None or high is None:
        return f"{value:.3f} [?]"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _percent(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "?"
    return f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"
