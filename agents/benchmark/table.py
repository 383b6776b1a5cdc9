"""The benchmark's results for people: Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import markdown
from agents.benchmark.standings import FIGURES, GAPS, OF_BOUND
from agents.summary import NOTABLE_OVERLAP

HEADINGS = {"ttft_mean_s": "mean TTFT", "ttft_p99_s": "P99 TTFT"}


def markdown_table(summary: Mapping[str, Any], decision_us: Mapping[str, float]) -> str:
    """The summary of ``agents.benchmark``: all scenarios together, then each by itself.

    Args:
        summary: What it wrote into ``summary.json``.
        decision_us: Policy -> mean time of a decision on this machine.
    """
    parts = ["# RouteBench", "", *_notes(summary), ""]
    for figure in [each for each in FIGURES if summary["overall"][each]]:  # none without a rule
        parts += [f"## {HEADINGS[figure]}, all scenarios", "", _overall(summary, figure, decision_us), ""]
    for fleet, policies in summary["speedups"].items():
        parts += [f"## Times better than {summary['reference']}, {fleet} fleets", "", _speedups(policies), ""]
    for name, scenario in summary["scenarios"].items():
        parts += [f"## {name}", "", _of_scenario(scenario), "", *_scenario_notes(scenario), ""]
    return "\n".join(parts)


def _overall(summary: Mapping[str, Any], figure: str, decision_us: Mapping[str, float]) -> str:
    lines: list[tuple[str, ...]] = [
        (
            "policy",
            "kind",
            "IQM of cost",
            "P(better)",
            "scenarios better",
            "worse",
            "of",
            "ahead of all rules",
            "worst scenario",
            *(("median gap closed", "from the best there") if figure == OF_BOUND else ()),
            "µs/decision",
        )
    ]
    for name, row in summary["overall"][figure].items():
        verdict = row["verdict"]
        worst = verdict["worst"]
        lines.append(
            (
                name,
                row["kind"],
                _interval(row["interquartile_mean"], ".3f"),
                _interval(row["probability_of_improvement"], ".2f"),
                str(verdict["num_better"]),
                str(verdict["num_worse"]),
                str(verdict["num_scenarios"]),
                str(verdict["num_ahead"]) if row["kind"] == "learned" else "-",
                "-" if worst is None else f"{worst[0]} {_number(worst[1], '+.1%')}",
                *(_number(verdict[f"median_{gap}"], ".0%") for gap in GAPS if figure == OF_BOUND),
                f"{decision_us[name]:.0f}",
            )
        )
    return markdown.table(lines)


def _speedups(policies: Mapping[str, Any]) -> str:
    """Mean over the scenarios, and the worst and the best of them; the greatest mean first."""
    lines = [("policy", *(f"{HEADINGS[figure]}, mean (worst to best)" for figure in FIGURES))]
    for name in sorted(policies, key=lambda name: -policies[name][FIGURES[0]]["mean"]):
        figures = [policies[name].get(figure) for figure in FIGURES]
        shown = [
            each and f"{each['mean']:.2f} ({each['worst']:.2f} to {each['best']:.2f})" for each in figures
        ]
        lines.append((name, *(each or "-" for each in shown)))
    return markdown.table(lines)


def _of_scenario(scenario: Mapping[str, Any]) -> str:
    mean, late = (scenario[figure] for figure in FIGURES)
    fails = any(means["num_failed"] for means in scenario["means"].values())
    header = (
        "policy",
        "mean TTFT, s",
        f"against {mean['best_rule'] or 'no rule'}",
        "gap closed",
        "P99, s",
        f"against {late['best_rule'] or 'no rule'}",
        "TPOT, ms",
        "E2E, s",
        "SLO met",
        "prefix hits",
        *(("failed",) if fails else ()),
    )
    lines: list[tuple[str, ...]] = [header]
    for name, row in mean["policies"].items():
        of_p99, means = late["policies"][name], scenario["means"][name]
        lines.append(
            (
                name,
                _interval(row["mean"], ".3f"),
                _interval(row.get("against_best_rule"), "+.1%"),
                _interval(row.get("gap_closed"), ".0%"),
                _interval(of_p99["mean"], ".2f"),
                _interval(of_p99.get("against_best_rule"), "+.1%"),
                _number(means["tpot_mean_s"] and 1e3 * means["tpot_mean_s"], ".1f"),
                _number(means["e2e_mean_s"], ".2f"),
                _number(means["frac_slo_met"], ".1%"),
                _number(means["frac_prefix_hits"], ".1%"),
                *((_number(means["num_failed"], ".1f"),) if fails else ()),
            )
        )
    return markdown.table(lines)


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = [
        f"RouteBench version {summary['version']}, {summary['split']} streams,"
        f" {len(summary['scenarios'])} scenarios; in brackets {summary['intervals']}.",
        "Cost: a stream's figure over that of the scenario's best rule on the same stream. The best rule is"
        " chosen with hindsight, for each figure its own. IQM: mean of the middle half of all streams' costs."
        " P(better): chance of a lower figure than the best rule's. Better and worse: scenarios whose"
        " interval is clear of zero, or in which it served nobody on one of the streams. Ahead of all rules:"
        " of each of them at p = 0.05 (paired t-test of logarithms, Holm's correction for their number).",
    ]
    if summary["bound_seeds"] is not None:
        seeds = ", ".join(map(str, summary["bound_seeds"]))
        notes.append(
            f"The bound was played on seeds {seeds} alone: its own means are of those, and so is all that it"
            " is compared by. It was searched for the least mean, and is no bound of P99. From the best"
            " there: the gap from the rule that is best on those streams alone, chosen with hindsight."
        )
    if summary["without_bound"]:
        notes.append(f"The bound was not played in {', '.join(summary['without_bound'])}.")
    notes += [f"Left out, {name}: {reason}" for name, reason in summary["left_out"].items()]
    untuned = summary["without_tuned_constants"]
    everywhere = [name for name, scenarios in untuned.items() if len(scenarios) == len(summary["scenarios"])]
    if everywhere:
        notes.append(f"There is no {', '.join(everywhere)}: these rules were not tuned so.")
    for name in [name for name in untuned if name not in everywhere]:
        notes.append(f"There is no {name} in {', '.join(untuned[name])}: the rule was not tuned so there.")
    return notes


def _scenario_notes(scenario: Mapping[str, Any]) -> list[str]:
    notes = []
    for figure in FIGURES:
        standings = scenario[figure]
        is_known = standings["policies"][standings["winner"]]["mean"][0] is not None
        if len(standings["policies"]) < 2 or not is_known:
            continue
        sure = "is" if standings["winner_is_certain"] else "leads, which may be chance: not"
        notes.append(
            f"By {HEADINGS[figure]} {standings['winner']} {sure} ahead of every other policy at p = 0.05"
            " (paired t-test of logarithms, Holm's correction)."
        )
    if beaten_by := scenario[OF_BOUND]["beaten_by"]:
        notes.append(
            f"There is no bound here: {', '.join(beaten_by)} did better than the clairvoyant's plan, on its"
            " streams."
        )
    notes.append(f"Requests: {'; '.join(scenario['workload_notes'])}.")
    if (overlap := scenario["greatest_overlap"]) and overlap["frac_shared"] > NOTABLE_OVERLAP:
        notes.append(
            f"Streams of two seeds have up to {overlap['frac_shared']:.0%} of their requests in common: the"
            " intervals are narrower, and p smaller, than over as many streams that had nothing in common."
        )
    return notes


def _interval(row: list[float | None] | None, form: str) -> str:
    if row is None:
        return "-"
    value, low, high = row
    if low is None or high is None:
        return _number(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
