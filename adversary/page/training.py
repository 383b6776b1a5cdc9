"""The tab on routers that were trained against attacks: before and after."""

from __future__ import annotations

from adversary.page.markup import Row, absent, choice, filters, paragraph, table
from adversary.page.pairs import pairs
from adversary.page.verdict import Report
from adversary.page.wording import change, interval, is_clear, seconds, value

SETS = {
    "clean": "no attack",
    "random": "random attacks",
    "synthetic": "synthetic worlds",
    "real": "a real trace held out",
    "adversarial": "attacks held out",
}


def tab(report: Report) -> str:
    """Every trained router on every set of episodes."""
    held = report.get("training") or {}
    rows = held.get("rows") or ()
    words = paragraph(held["words"]) if held.get("words") else ""
    if not rows:
        return words + absent("Training against attacks is")
    policies = {row["policy"]: row["policy"] for row in rows}
    sets = {row["set"]: SETS.get(row["set"], row["set"]) for row in rows}
    tags = [{"policy": row["policy"], "set": row["set"]} for row in rows]
    labels = [f"{row['policy']}, {sets[row['set']]}" for row in rows]
    lines = [
        Row(
            [
                row["policy"],
                sets[row["set"]],
                interval(row["before"], seconds),
                interval(row["after"], seconds),
                interval(row["change"], change),
                _finding(row["change"]),
            ],
            tag,
        )
        for row, tag in zip(rows, tags, strict=True)
    ]
    title = "Mean TTFT before and after training against attacks"
    found = [f"{label} {change(value(row['change']))}" for label, row in zip(labels, rows, strict=True)]
    return "".join(
        [
            words,
            paragraph(
                "On held-out seeds; the change is paired by seed, in brackets its 95 % interval. Lower is"
                " better."
            ),
            filters(choice("policy", "Router", policies, "all"), choice("set", "Episodes", sets, "all")),
            pairs(
                title,
                f"{title}: {'; '.join(found)}.",
                labels,
                tags,
                [(row["before"], row["after"]) for row in rows],
                ("before", "after"),
            ),
            table(title, ["router", "episodes", "before", "after", "change", "finding"], lines),
        ]
    )


def _finding(estimate: object) -> str:
    if not is_clear(estimate):
        return "undecided"
    return "better" if (value(estimate) or 0.0) < 0.0 else "worse"
