"""What a distillation came to, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import markdown
from agents.summary import FAILED

COMPARED = {"ttft_mean_s": "mean TTFT", "ttft_p99_s": "P99"}


def text(summary: Mapping[str, Any]) -> str:
    """The table and the rules; ``summary`` is what ``agents.distill`` writes as ``distill.json``."""
    best, teacher, students = summary["best_rule"], summary["teacher"], summary["students"]
    notes = [
        f"Means over {len(summary['seeds'])} seeds; in brackets {summary['intervals']}.",
        f"Requests: {'; '.join(summary['workload_notes'])}.",
        f"Those that arrived in the first {summary['warmup_s']:g} s are routed and not counted.",
        f"Gain kept: ({best} - student) / ({best} - {teacher}); {best} is the best rule on these streams.",
    ]
    relative = summary["relative_to_reference"].get(teacher, {})
    for figure, words in COMPARED.items():
        if figure in relative and relative[figure][0] >= 0.0:
            notes.append(f"{teacher} has no lower {words} than {best}: of that there is no gain to keep.")
    if any(figures["num_failed"][0] for figures in summary["policies"].values()):
        notes.append(FAILED)
    parts = [
        f"{name}, {student['num_nodes']} nodes:\n\n```\n{student['rule']}```\n"
        for name, student in students.items()
    ]
    return "\n".join((markdown.table(results(summary)), "", *notes, "", *parts))


def results(summary: Mapping[str, Any]) -> list[list[str]]:
    """The table's lines, the first its header."""
    best, teacher, students = summary["best_rule"], summary["teacher"], summary["students"]
    header = ["policy", "mean TTFT, s", f"against {best}", "P99, s", f"against {best}"]
    lines = [[*header, *(f"gain kept, {figure}" for figure in COMPARED.values()), "nodes"]]
    for name, figures in summary["policies"].items():
        line = [f"{name} (teacher)" if name == teacher else name]
        for figure in COMPARED:
            line.append(markdown.interval(figures[figure], ".3f"))
            relative = summary["relative_to_reference"].get(name)
            line.append("-" if relative is None else markdown.interval(relative[figure], "+.1%"))
        student = students.get(name)
        line += [_kept(student["kept"][figure]) if student else "" for figure in COMPARED]
        lines.append([*line, str(student["num_nodes"]) if student else ""])
    return lines


def _kept(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.0%}" if low is None or high is None else f"{value:.0%} [{low:.0%}, {high:.0%}]"
