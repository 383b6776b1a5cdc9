"""The tab on attacks made against one router and let loose on another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adversary.page.verdict import Report, kind_of
from adversary.page.wording import KINDS, LEVELS
from agents.page.markup import absent, choice, element, filters, paragraph
from agents.page.matrix import Matrix, show
from agents.page.wording import change, interval, value


def tab(report: Report) -> str:
    """A heat map per level: rows are who suffers an attack, columns what it was made against."""
    held = {level: at for level in LEVELS if (at := (report.get("transfer") or {}).get(level))}
    if not held:
        return absent("How attacks carry over from one router to another is")
    victims = {name for at in held.values() for name in at["victims"]}
    kinds = {kind: KINDS.get(kind, kind) for name in sorted(victims) if (kind := kind_of(report, name))}
    return "".join(
        [
            paragraph(
                "Each column is an attack made against one router; each row is a router that suffers it: the"
                " rise of its mean TTFT. Framed: an attack on the router that it was made against."
            ),
            filters(
                choice("level", "Attacks", {level: f"on {LEVELS[level]}" for level in held}),
                choice("kind", "Routers that suffer", kinds, "all kinds"),
            ),
            *(_level(report, level, at) for level, at in held.items()),
        ]
    )


def _level(report: Report, level: str, at: Mapping[str, Any]) -> str:
    targets, victims = at["targets"], at["victims"]
    values = [[value(row[place]) for row in at["degradation"]] for place in range(len(victims))]
    texts = [[_text(at, i, j) for i in range(len(targets))] for j in range(len(victims))]
    foreign, judged = worst_is_foreign(targets, victims, values)
    said = (
        f"For {foreign} of {judged} routers, the worst attack is one that was made against another router."
        if judged
        else "No router suffers an attack of its own and one of another's here."
    )
    alt = f"Heat map of attacks made against {len(targets)} routers, on {len(victims)} routers. {said}"
    matrix = Matrix(
        f"Attacks on {LEVELS[level]}: rise of mean TTFT",
        alt,
        "suffered by",
        "made against",
        {name: {"kind": kind_of(report, name)} for name in victims},
        {name: {} for name in targets},
        values,
        texts,
        marked=[(name, name) for name in targets if name in victims],
    )
    return element("div", paragraph(said), tags={"level": level}) + show(matrix, {"level": level})


def _text(at: Mapping[str, Any], i: int, j: int) -> str:
    low, high = (value(at[key][i][j]) if at.get(key) else None for key in ("low", "high"))
    return interval({"value": at["degradation"][i][j], "low": low, "high": high}, change)


def worst_is_foreign(
    targets: list[str], victims: list[str], values: list[list[float | None]]
) -> tuple[int, int]:
    """How many routers suffer most from an attack made against another one, of those that can be judged.

    ``values`` are ``[victims][targets]``.
    """
    foreign = judged = 0
    for victim, row in zip(victims, values, strict=True):
        known = {name: at for name, at in zip(targets, row, strict=True) if at is not None}
        if victim in known and len(known) > 1:
            judged += 1
            foreign += max(known, key=lambda name: known[name]) != victim
    return foreign, judged
