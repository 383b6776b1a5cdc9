"""The tab on what defences help, and what they cost where nobody attacks."""

from __future__ import annotations

from adversary.page.pairs import pairs
from adversary.page.verdict import Report
from agents.page.markup import Row, absent, choice, filters, paragraph, table
from agents.page.wording import change, interval, is_clear, seconds, value


def tab(report: Report) -> str:
    """Every defended router under every attack, without and with its defence."""
    rows = report.get("defences") or ()
    if not rows:
        return absent("A measurement of defences is")
    defences = {row["defence"]: row["defence"] for row in rows}
    attacks = {row["attack"]: row["attack"] for row in rows}
    victims = {row["victim"]: row["victim"] for row in rows}
    labels = [f"{row['victim']} + {row['defence']}, {row['attack']}" for row in rows]
    tags = [{"defence": row["defence"], "attack": row["attack"], "victim": row["victim"]} for row in rows]
    helped = sum(is_clear(row["change"]) and (value(row["change"]) or 0.0) < 0.0 for row in rows)
    lines = []
    for row, tag in zip(rows, tags, strict=True):
        lines.append(
            Row(
                [
                    row["victim"],
                    row["defence"],
                    row["attack"],
                    interval(row["without"], seconds),
                    interval(row["with"], seconds),
                    _change(row["change"]),
                    _change(row["clean_change"]),
                ],
                tag,
            )
        )
    header = ["router", "defence", "attack", "without", "with", "change", "change without an attack"]
    title = "Mean TTFT without and with each defence"
    alt = f"{title}, {len(rows)} pairs of points; in {helped} the defence clearly lowers it."
    return "".join(
        [
            paragraph(
                "Mean TTFT under an attack, without and with the defence, and what the defence changes where"
                " nobody attacks; changes are paired by seed. A star: the 95 % interval of the change leaves"
                " out zero."
            ),
            filters(
                choice("defence", "Defence", defences, "all"),
                choice("attack", "Attack", attacks, "all"),
                choice("victim", "Router", victims, "all"),
            ),
            pairs(
                title, alt, labels, tags, [(row["without"], row["with"]) for row in rows], ("without", "with")
            ),
            table(title, header, lines),
        ]
    )


def _change(estimate: object) -> str:
    return interval(estimate, change) + (" *" if is_clear(estimate) else "")
