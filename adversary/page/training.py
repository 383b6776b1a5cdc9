"""The tab on routers that were trained against attacks: before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adversary.page.pairs import pairs
from adversary.page.verdict import Report
from agents.page.markup import Row, absent, choice, filters, paragraph, table
from agents.page.wording import change, interval, is_clear, seconds, value

SETS = {
    "clean": "no attack",
    "random": "random attacks",
    "synthetic": "synthetic worlds",
    "real": "a real trace held out",
    "adversarial": "the worst attack found on it",
}
"""What a set of episodes holds. ``adversarial, spoof`` is of attacks on that threat alone."""


def set_in_words(name: str) -> str:
    """A set of episodes for readers."""
    kind, _, threat = name.partition(", ")
    words = SETS.get(kind, kind)
    return f"{words}, {threat.replace('_', ' ')} only" if threat else words


def tab(report: Report) -> str:
    """Every trained router on every set of episodes."""
    held = report.get("training") or {}
    rows = held.get("rows") or ()
    words = paragraph(held["words"]) if held.get("words") else ""
    if not rows:
        return words + absent("Training against attacks is")
    policies = {row["policy"]: row["policy"] for row in rows}
    sets = {row["set"]: set_in_words(row["set"]) for row in rows}
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
                " better. The worst attack found on it: of all that were found against the router before"
                " training or after it, the one that is worst for each. The streams are held out; the attacks"
                " are not: those against the router before are among what it was trained on."
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
            _notes(held.get("notes") or {}),
        ]
    )


def _notes(notes: Mapping[str, Sequence[str]]) -> str:
    """Where the requests of each set come from."""
    rows = [Row([set_in_words(name), "; ".join(said)]) for name, said in notes.items() if said]
    return table("Where the requests of other episodes come from", ["episodes", "data"], rows) if rows else ""


def _finding(estimate: object) -> str:
    if not is_clear(estimate):
        return "undecided"
    return "better" if (value(estimate) or 0.0) < 0.0 else "worse"
