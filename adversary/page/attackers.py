"""The tab on which attacker finds most, at equal numbers of evaluations of the victim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adversary.page.verdict import Report, kind_of
from adversary.page.wording import ATTACKERS, KINDS
from agents.page.markup import Row, absent, choice, element, figure, filters, heading, paragraph, table
from agents.page.palette import COLOURS, MARKERS
from agents.page.wording import NOTHING, plain, value


class Comparison(NamedTuple):
    """Attackers on one threat that evaluated a victim equally often: whose harms may be compared."""

    threat: str
    num_evaluations: int
    victims: list[str]
    attackers: list[str]
    harms: dict[tuple[str, str], float | None]
    """(victim, attacker) -> harm."""

    def best(self, victim: str) -> str | None:
        """Who found most against a victim; None where fewer than two tried."""
        known = {name: at for name in self.attackers if (at := self.harms.get((victim, name))) is not None}
        return max(known, key=lambda name: known[name]) if len(known) > 1 else None

    def won(self) -> str:
        """Against how many routers each found most, of those that at least two tried, in a sentence."""
        best = [held for victim in self.victims if (held := self.best(victim))]
        if not best:
            return "No two attackers tried the same router here."
        said = ", ".join(f"{ATTACKERS.get(name, name)} {best.count(name)}" for name in self.attackers)
        routers = "the one router" if len(best) == 1 else f"the {len(best)} routers"
        return f"Found most against {routers} that at least two attackers tried: {said}."


def comparisons(rows: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """One for each threat and number of evaluations, the fewest first."""
    threats = list(dict.fromkeys(row["threat"] for row in rows))
    found = []
    for threat in threats:
        for size in sorted({row["num_evaluations"] for row in rows if row["threat"] == threat}):
            chosen = [row for row in rows if (row["threat"], row["num_evaluations"]) == (threat, size)]
            tried = {row["attacker"] for row in chosen}
            names = [name for name in ATTACKERS if name in tried]
            names += sorted(tried.difference(names))
            victims = list(dict.fromkeys(row["victim"] for row in chosen))
            harms = {(row["victim"], row["attacker"]): value(row["harm"]) for row in chosen}
            found.append(Comparison(threat, size, victims, names, harms))
    return found


def title_of(report: Report, threat: str) -> str:
    """Title of a threat."""
    return str(((report.get("threats") or {}).get(threat) or {}).get("title") or threat)


def tab(report: Report) -> str:
    """A figure and a table for each threat and number of evaluations."""
    rows = report.get("attackers") or ()
    if not rows:
        return absent("A comparison of attackers is")
    found = comparisons(rows)
    kinds = {kind: KINDS.get(kind, kind) for row in rows if (kind := kind_of(report, row["victim"]))}
    return "".join(
        [
            paragraph(
                "The harm that each attacker found, in the measure that it was told to raise; it may only be"
                " compared along a row: on one threat, at one number of evaluations of the victim. Who found"
                " most is told of routers that at least two attackers tried with that number."
            ),
            filters(
                choice("threat", "Threat", {held.threat: title_of(report, held.threat) for held in found}),
                choice("kind", "Routers", kinds, "all kinds"),
            ),
            *(_comparison(report, held) for held in found),
        ]
    )


def _comparison(report: Report, held: Comparison) -> str:
    tags = {name: {"kind": kind_of(report, name)} for name in held.victims}
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": ATTACKERS.get(name, name),
            "x": [held.harms.get((victim, name)) for victim in held.victims],
            "y": held.victims,
            "hovertemplate": "%{y}: %{x:.3g}",
            "marker": {
                "color": COLOURS[place % len(COLOURS)],
                "symbol": MARKERS[place % len(MARKERS)],
                "size": 11,
            },
        }
        for place, name in enumerate(held.attackers)
    ]
    layout = {
        "xaxis": {"title": {"text": "harm found"}},
        "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
        "meta": {"rows": tags, "row_height": 30},
    }
    size = f"{held.num_evaluations} {'evaluation' if held.num_evaluations == 1 else 'evaluations'}"
    title = f"{title_of(report, held.threat)}: harm found with {size}"
    alt = f"{title}, against {len(held.victims)} routers. {held.won()}"
    names = [ATTACKERS.get(name, name) for name in held.attackers]
    lines = []
    for victim in held.victims:
        best = held.best(victim)
        harms = (plain(held.harms.get((victim, name))) for name in held.attackers)
        lines.append(Row([victim, *harms, ATTACKERS.get(best, best) if best else NOTHING], tags[victim]))
    return element(
        "div",
        heading(3, f"{title_of(report, held.threat)}, with {size} of the victim"),
        paragraph(held.won()),
        figure(f"{title}, by attacker.", alt, {"data": data, "layout": layout}),
        table(title, ["router", *names, "found most"], lines),
        tags={"threat": held.threat},
    )
