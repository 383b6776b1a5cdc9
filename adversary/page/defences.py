"""The tab on what defences help, and what they cost where nobody attacks."""

from __future__ import annotations

from adversary.page.markup import Row, absent, choice, filters, paragraph, table
from adversary.page.pairs import pairs
from adversary.page.verdict import Report
from adversary.page.wording import change, interval, is_clear, seconds, value


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
    helped = sum(_helps(row["without"], row["with"]) for row in rows)
    lines = []
    for row, tag in zip(rows, tags, strict=True):
        cost = interval(row.get("clean_change"), change)
        lines.append(
            Row(
                [
                    row["victim"],
                    row["defence"],
                    row["attack"],
                    interval(row["without"], seconds),
                    interval(row["with"], seconds),
                    change(_ratio(row["without"], row["with"])),
                    cost + (" *" if is_clear(row.get("clean_change")) else ""),
                ],
                tag,
            )
        )
    header = ["router", "defence", "attack", "without", "with", "change", "change without an attack"]
    title = "Mean TTFT without and with each defence"
    alt = f"{title}, {len(rows)} pairs of points; in {helped} the defence lowers it."
    return "".join(
        [
            paragraph(
                "Mean TTFT under an attack, without and with the defence, and what the defence changes where"
                " nobody attacks. A star: the 95 % interval of that change leaves out zero."
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


def _ratio(before: object, after: object) -> float | None:
    first, second = value(before), value(after)
    return None if first is None or second is None or first <= 0.0 else second / first - 1.0


def _helps(before: object, after: object) -> bool:
    return (_ratio(before, after) or 0.0) < 0.0
