"""The headline, and the tab that shows all victims side by side."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from adversary.page.verdict import Report, Verdict, details, kind_of, summary, verdicts, yardstick
from adversary.page.wording import FORMS, KINDS
from agents.page.markup import Row, absent, choice, element, figure, filters, heading, paragraph, table
from agents.page.palette import COLOURS
from agents.page.wording import NOTHING, change, interval, plain, seconds, value

SERIES = (
    ("clean", "no attack", COLOURS[2], "circle"),
    ("worst_feature", "worst attack on what it sees", COLOURS[0], "square"),
    ("worst_world", "worst attack on what happens", COLOURS[1], "diamond"),
)


def headline(report: Report) -> str:
    """The verdicts in plain words, which stand above all tabs."""
    found = verdicts(report)
    rows = {row["victim"]: row for row in report.get("headline") or ()}
    if not found:
        return absent("A verdict per router is")
    return (
        paragraph(summary(report, found), class_="summary")
        + paragraph(
            "Behind: a higher mean TTFT, at one of the shares played, with a paired 95 % interval of the"
            " difference that leaves out zero; with few seeds it is a little too narrow. Each card is about"
            " the threat that tells most; the bar is the share of its bounds. Open a card for more.",
            class_="note",
        )
        + element("ul", *(_card(report, held, rows[held.victim]) for held in found), class_="cards")
    )


def _card(report: Report, verdict: Verdict, row: Mapping[str, Any]) -> str:
    kind = kind_of(report, verdict.victim)
    words = ((report.get("victims") or {}).get(verdict.victim) or {}).get("words") or ""
    share = 1.0 if verdict.tone == "good" else verdict.epsilon
    bar = ""
    if share is not None:
        filled = element("span", style=f"width:{100 * min(share, 1.0):.0f}%")
        bar = element("div", filled, class_="bar", aria_hidden="true")
    said = element("ul", *(element("li", escape(text)) for text in details(report, row)))
    return element(
        "li",
        heading(3, verdict.victim),
        element("span", escape(KINDS.get(kind, kind)), class_="kind") if kind else "",
        element("div", paragraph(verdict.answer, class_="answer"), bar, class_="verdict"),
        element(
            "details",
            element("summary", escape(verdict.meaning)),
            paragraph(words) if words else "",
            said,
        ),
        paragraph(verdict.world, class_="world") if verdict.world else "",
        class_=f"card {verdict.tone}",
    )


def tab(report: Report) -> str:
    """All victims side by side: without an attack and at their worst."""
    rows = report.get("headline") or ()
    if not rows:
        return absent("An overview is")
    kinds = {kind: KINDS.get(kind, kind) for row in rows if (kind := kind_of(report, row["victim"]))}
    return (
        paragraph(
            "Mean time to first token (TTFT), in seconds; lower is better. Brackets hold the 95 % interval"
            f" over {len((report.get('scenario') or {}).get('seeds') or ())} held-out seeds; changes are"
            " paired by seed. The worst attack on what a router sees is the one, of all tried, with the"
            " highest mean TTFT; the worst world is the one in which its mean TTFT is the most times round"
            " robin's in the same world. Where nobody was served, nothing is worse."
        )
        + filters(choice("kind", "Routers", kinds, "all kinds"))
        + _figure(report, rows)
        + _table(report, rows)
    )


def _figure(report: Report, rows: Any) -> str:
    names = [row["victim"] for row in rows]
    data = []
    for key, name, colour, symbol in SERIES:
        held = [row.get(key) if key == "clean" else (row.get(key) or {}).get("ttft_mean_s") for row in rows]
        xs = [value(estimate) for estimate in held]
        spread = {"above": [], "below": []}  # type: dict[str, list[float]]
        for x, estimate in zip(xs, held, strict=True):
            low, high = value(estimate, "low"), value(estimate, "high")
            spread["above"].append(high - x if x is not None and high is not None else 0.0)
            spread["below"].append(x - low if x is not None and low is not None else 0.0)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": xs,
                "y": names,
                "text": [interval(estimate, seconds) for estimate in held],
                "hovertemplate": "%{y}<br>%{text}",
                "marker": {"color": colour, "symbol": symbol, "size": 10},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": spread["above"],
                    "arrayminus": spread["below"],
                    "thickness": 1.5,
                    "width": 3,
                },
            }
        )
    layout = {
        "xaxis": {"type": "log", "title": {"text": "mean TTFT, s"}},
        "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
        "meta": {"rows": {name: {"kind": kind_of(report, name)} for name in names}, "row_height": 30},
    }
    worst = [(value((row.get("worst_feature") or {}).get("ttft_mean_s")), row["victim"]) for row in rows]
    known = [(x, name) for x, name in worst if x is not None]
    alt = f"Mean TTFT of {len(rows)} routers without an attack and under their worst attacks."
    if known:
        (least, best), (most, last) = min(known), max(known)
        alt += f" Misled, {best} stays at {seconds(least)}, {last} goes to {seconds(most)}."
    return figure(
        "Each router without an attack and at its worst (logarithmic).", alt, {"data": data, "layout": layout}
    )


def _table(report: Report, rows: Any) -> str:
    header = [
        "router",
        "no attack",
        "misled worst",
        "change",
        "by",
        "worst world",
        "change",
        "vs round robin there",
        "by",
        "churn, clean → worst",
        "hot spot, clean → worst",
    ]
    lines = []
    for row in rows:
        cells = [row["victim"], interval(row.get("clean"), seconds)]
        for level in ("feature", "world"):
            worst = row.get(f"worst_{level}") or {}
            cells += [
                interval(worst.get("ttft_mean_s"), seconds),
                interval(worst.get("degradation"), change),
            ]
            if level == "world":
                is_same = row["victim"] == yardstick(report)
                cells.append("is it" if is_same else interval(worst.get("relative"), change))
            cells.append(worst.get("attack") or NOTHING)
        for name in ("churn", "hot_spot"):
            held = row.get(name) or {}
            form = FORMS.get(name, plain)
            cells.append(f"{form(value(held.get('clean')))} → {form(value(held.get('worst')))}")
        lines.append(Row(cells, {"kind": kind_of(report, row["victim"])}))
    return table("Every router without an attack and at its worst", header, lines) + paragraph(
        "Churn: by how much each instance's share of the requests changes from one window to the next, half"
        " the sum over the instances: 0 is always the same, 1 wholly elsewhere each time. Hot spot: number of"
        " instances times the largest share of requests that one of them got; 1 is even, the number of"
        " instances is everything on one.",
        class_="note",
    )
