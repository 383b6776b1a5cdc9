"""The tab on every router under every attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adversary.page.verdict import Report, kind_of
from adversary.page.wording import ATTACKERS, FORMS, KINDS, LEVELS, METRICS
from agents.page.markup import Row, absent, choice, filters, folded, heading, paragraph, table
from agents.page.matrix import Matrix, show
from agents.page.wording import NOTHING, change, interval, plain, value

CLEAN = "clean"
SHOWN = {
    "ttft_mean_s": "rise of mean TTFT",
    "ttft_p95_s": "rise of P95 of TTFT",
    "ttft_p99_s": "rise of P99 of TTFT",
    "goodput_per_s": "goodput lost",
}


def tags_of(report: Report, attack: str) -> dict[str, str]:
    """What filters know of an attack: its level and its attacker."""
    held = (report.get("attacks") or {}).get(attack) or {}
    level = ((report.get("threats") or {}).get(held.get("threat")) or {}).get("level")
    found = {"level": level, "attacker": held.get("attacker")}
    return {key: str(tag) for key, tag in found.items() if tag}


def tab(report: Report) -> str:
    """Heat maps of how much worse every router does under every attack, and all figures."""
    cells = {(cell["victim"], cell["attack"]): cell for cell in report.get("cells") or ()}
    attacks = list(dict.fromkeys(attack for _, attack in cells if attack != CLEAN))
    if not attacks:
        return absent("A comparison of routers under attacks is")
    victims = list(dict.fromkeys(victim for victim, _ in cells))
    rows = {victim: {"kind": kind_of(report, victim)} for victim in victims}
    columns = {attack: tags_of(report, attack) for attack in attacks}
    kinds = {tags["kind"]: KINDS.get(tags["kind"], tags["kind"]) for tags in rows.values() if tags["kind"]}
    levels = {level: f"attacks on {words}" for level, words in LEVELS.items()}
    present = {tags.get("level") for tags in columns.values()}
    attackers = {tags["attacker"] for tags in columns.values() if "attacker" in tags}
    shown = {
        metric: words
        for metric, words in SHOWN.items()
        if any(value((cell.get("degradation") or {}).get(metric)) is not None for cell in cells.values())
    }
    parts = [
        paragraph(
            "How much worse each router does under each attack than without, paired by seed. The scale of"
            " latencies is in doublings. The router that an attack was made against"
            " stands in the table below."
        ),
        filters(
            choice("metric", "Figure", shown),
            choice(
                "level",
                "Attacks",
                {level: words for level, words in levels.items() if level in present},
                "all",
            ),
            choice(
                "attacker",
                "Attackers",
                _named(attackers),
                "all",
            ),
            choice("kind", "Routers", kinds, "all kinds"),
        ),
    ]
    for metric, words in shown.items():
        held = [
            [(cells.get((victim, attack)) or {}).get("degradation") or {} for attack in attacks]
            for victim in victims
        ]
        values = [[value(cell.get(metric)) for cell in row] for row in held]
        texts = [[interval(cell.get(metric), change) for cell in row] for row in held]
        worst = max(
            (
                (at, victims[i], attacks[j])
                for i, row in enumerate(values)
                for j, at in enumerate(row)
                if at is not None
            ),
            default=None,
        )
        alt = f"Heat map of {len(victims)} routers by {len(attacks)} attacks: {words}."
        if worst:
            alt += f" Worst: {worst[1]} under {worst[2]}, {change(worst[0])}."
        matrix = Matrix(
            f"Routers by attacks: {words}, against no attack",
            alt,
            "router",
            "attack",
            rows,
            columns,
            values,
            texts,
            metric == "goodput_per_s",
        )
        parts.append(show(matrix, {"metric": metric}))
    parts += [
        heading(3, "The attacks"),
        _attacks(report, columns),
        heading(3, "Every figure"),
        folded("Every figure of every router under every attack", _cells(cells, rows, columns)),
    ]
    return "".join(parts)


def _named(attackers: set[str]) -> dict[str, str]:
    """Their names for readers, those with none at the end."""
    known = {name: words for name, words in ATTACKERS.items() if name in attackers}
    return known | {name: name for name in sorted(attackers.difference(known))}


def _attacks(report: Report, columns: Mapping[str, Mapping[str, str]]) -> str:
    rows = []
    for name, tags in columns.items():
        held = (report.get("attacks") or {}).get(name) or {}
        threat = (report.get("threats") or {}).get(held.get("threat")) or {}
        attacker = held.get("attacker") or ""
        rows.append(
            Row(
                [
                    name,
                    threat.get("title") or held.get("threat") or NOTHING,
                    ATTACKERS.get(attacker, attacker),
                    held.get("target") or "nobody",
                    plain(value(held.get("epsilon"))),
                    plain(value(held.get("num_evaluations"))),
                    plain(value(held.get("harm"))),
                ],
                tags,
            )
        )
    return table(
        "What each attack is",
        ["attack", "threat", "attacker", "made against", "ε", "evaluations of the victim", "harm it found"],
        rows,
    )


def _cells(cells: Mapping[tuple[str, str], Any], rows: Mapping[str, Any], columns: Mapping[str, Any]) -> str:
    metrics = [
        name for name in METRICS if any((cell.get("metrics") or {}).get(name) for cell in cells.values())
    ]
    lines = [
        Row(
            [
                victim,
                attack,
                *(interval((cell.get("metrics") or {}).get(name), FORMS[name]) for name in metrics),
            ],
            {**rows[victim], **columns.get(attack, {})},
        )
        for (victim, attack), cell in cells.items()
    ]
    return table(
        "All figures, with 95 % intervals over seeds",
        ["router", "attack", *(METRICS[name] for name in metrics)],
        lines,
    )
