"""The tab on which attacker finds most, at equal numbers of evaluations of the victim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adversary.page.markup import Row, absent, choice, element, figure, filters, heading, paragraph, table
from adversary.page.palette import COLOURS, MARKERS
from adversary.page.verdict import Report, kind_of
from adversary.page.wording import ATTACKERS, KINDS, NOTHING, plain, value


def tab(report: Report) -> str:
    """A figure and a table for each number of evaluations."""
    rows = report.get("attackers") or ()
    if not rows:
        return absent("A comparison of attackers is")
    sizes = sorted({row["num_evaluations"] for row in rows})
    kinds = {kind: KINDS.get(kind, kind) for row in rows if (kind := kind_of(report, row["victim"]))}
    return "".join(
        [
            paragraph(
                "The harm that each attacker found, in the measure that it was told to raise; it may only be"
                " compared along a row, at one number of evaluations of the victim."
            ),
            filters(
                choice("size", "Evaluations", {str(size): plain(float(size)) for size in sizes}),
                choice("kind", "Routers", kinds, "all kinds"),
            ),
            *(_size(report, size, [row for row in rows if row["num_evaluations"] == size]) for size in sizes),
        ]
    )


def _size(report: Report, size: int, rows: Sequence[Mapping[str, Any]]) -> str:
    victims = list(dict.fromkeys(row["victim"] for row in rows))
    attackers = [name for name in ATTACKERS if any(row["attacker"] == name for row in rows)]
    attackers += [name for name in dict.fromkeys(row["attacker"] for row in rows) if name not in attackers]
    harms = {(row["victim"], row["attacker"]): value(row["harm"]) for row in rows}
    tags = {name: {"kind": kind_of(report, name)} for name in victims}
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": ATTACKERS.get(name, name),
            "x": [harms.get((victim, name)) for victim in victims],
            "y": victims,
            "hovertemplate": "%{y}: %{x:.3g}",
            "marker": {
                "color": COLOURS[place % len(COLOURS)],
                "symbol": MARKERS[place % len(MARKERS)],
                "size": 11,
            },
        }
        for place, name in enumerate(attackers)
    ]
    layout = {
        "xaxis": {"title": {"text": "harm found"}},
        "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
        "meta": {"rows": tags, "row_height": 30},
    }
    best = {victim: _best(harms, victim, attackers) for victim in victims}
    won = {name: sum(held == name for held in best.values()) for name in attackers}
    said = ", ".join(f"{ATTACKERS.get(name, name)} {won[name]}" for name in attackers)
    alt = f"Harm that each attacker found against {len(victims)} routers. Found most: {said}."
    lines = [
        Row(
            [
                victim,
                *(plain(harms.get((victim, name))) for name in attackers),
                ATTACKERS.get(best[victim] or "", best[victim] or NOTHING),
            ],
            tags[victim],
        )
        for victim in victims
    ]
    title = f"Harm found with {size} evaluations"
    header = ["router", *(ATTACKERS.get(name, name) for name in attackers), "found most"]
    return element(
        "div",
        heading(3, f"With {size} evaluations of the victim"),
        paragraph(f"Number of routers against which each found most: {said}."),
        figure(f"{title}, by attacker.", alt, {"data": data, "layout": layout}),
        table(title, header, lines),
        tags={"size": str(size)},
    )


def _best(harms: Mapping[tuple[str, str], float | None], victim: str, attackers: Sequence[str]) -> str | None:
    known = {name: at for name in attackers if (at := harms.get((victim, name))) is not None}
    return max(known, key=lambda name: known[name]) if known else None
