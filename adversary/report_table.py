"""The headline of a robustness report as a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from agents.markdown import table
from agents.page.wording import interval


def markdown_table(report: Mapping[str, Any]) -> str:
    """Each victim in peace, under the attack that harms it most, and where it falls behind the yardsticks."""
    swept = list(report["epsilon"])
    head = ["router", "in peace, s"]
    head += [f"{threat}: behind round robin, best load-only from" for threat in swept]
    head += ["worst lie, s", "worst world, s", "there beyond round robin", "churn", "hot spot"]
    rows = sorted(report["headline"], key=lambda row: _worst_s(row))
    lines = [head, *(_line(row, swept) for row in rows)]
    scenario = report["scenario"]
    notes = (
        f"Mean TTFT over seeds {scenario['seeds']} of {scenario['num_requests']} requests in"
        f" {scenario['duration_s']:g} s on {scenario['fleet']}, 95 % intervals. Attacks were found on seed"
        f" {', '.join(map(str, scenario['attack_seeds']))}. Behind from: the first share of the"
        " threat's bounds, of those played, at which the attack found against a router makes it clearly worse"
        " (the paired 95 % interval of the difference leaves out zero) than round robin, and than the best of"
        f" {', '.join(scenario['load_only'])}; 0%: in peace already; -: never. Churn and hot spot:"
        " in peace and at worst.\n"
        f"{report['validated']['num_steps']:,} perturbed steps were checked,"
        f" {report['validated']['num_violations']} broke bounds or budget."
    )
    return f"{table(lines)}\n\n{notes}\n"


def _worst_s(row: Mapping[str, Any]) -> float:
    """Mean TTFT at worst; where nobody was served there is none, and nothing is worse."""
    worst = [
        row[f"worst_{level}"]["ttft_mean_s"]["value"]
        for level in ("feature", "world")
        if row[f"worst_{level}"]
    ]
    return max((inf if each is None else each for each in worst), default=0.0)


def _line(row: Mapping[str, Any], swept: Sequence[str]) -> list[str]:
    line = [row["victim"], _seconds(row["clean"])]
    for threat in swept:
        found = row["break_even"].get(threat)
        line.append("not swept" if found is None else ", ".join(_share(each) for each in found.values()))
    for level in ("feature", "world"):
        worst = row[f"worst_{level}"]
        line.append(_seconds(worst["ttft_mean_s"]) if worst else "-")
    line.append(_percent(row["worst_world"]["relative"]) if row["worst_world"] else "-")
    for metric in ("churn", "hot_spot"):
        line.append(f"{row[metric]['clean']['value']:.2f}, {row[metric]['worst']['value']:.2f}")
    return line


def _seconds(estimate: Mapping[str, Any]) -> str:
    return "nobody was served" if estimate["value"] is None else interval(estimate, "{:.3f}".format)


def _percent(estimate: Mapping[str, Any]) -> str:
    return "-" if estimate["value"] is None else interval(estimate, "{:+.0%}".format)


def _share(epsilon: float | None) -> str:
    return "-" if epsilon is None else f"{100 * epsilon:.0f}%"
