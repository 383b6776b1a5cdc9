"""The tab with the worst attacks as time lines: what was done, what routers did, what users felt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adversary.page.verdict import Report, yardstick
from adversary.page.wording import knob_kind
from agents.page.markup import (
    Row,
    absent,
    choice,
    element,
    figure,
    filters,
    folded,
    heading,
    paragraph,
    table,
)
from agents.page.palette import COLOURS, DASHES, styles
from agents.page.wording import NOTHING, percent, plain, seconds, value

MAX_KNOBS = 8
"""Knobs drawn of one attack: those that moved most."""
MAX_POINTS = 1200
"""Instants drawn of a trace: more than a screen has columns."""
MAX_LINES = 60
"""Instants in a table."""


def tab(report: Report) -> str:
    """A trace at a time."""
    traces = report.get("worst_traces") or ()
    if not traces:
        return absent("Traces of the worst attacks are")
    titles = {str(place): trace["title"] for place, trace in enumerate(traces)}
    return "".join(
        [
            paragraph(
                "The attacks that did most harm, as they went. All pictures of a trace share their time axis."
            ),
            filters(choice("trace", "Trace", titles)),
            *(_trace(report, str(place), thinned(trace)) for place, trace in enumerate(traces)),
        ]
    )


def thinned(trace: Mapping[str, Any], most: int = MAX_POINTS) -> dict[str, Any]:
    """At most ``most`` instants of a trace, evenly chosen, and five digits of each figure."""
    stride = max(-(-len(trace["time_s"]) // most), 1)

    def chosen(series: Sequence[float | None]) -> list[float | None]:
        known = map(value, series[::stride])
        return [None if held is None else float(f"{held:.5g}") for held in known]

    routers = {
        name: {
            "share": [chosen(series) for series in held["share"]],
            "waiting": chosen(held["waiting"]),
            "ttft_s": chosen(held["ttft_s"]),
        }
        for name, held in trace["routers"].items()
    }
    knobs = {name: chosen(series) for name, series in trace["knobs"].items()}
    return {**trace, "time_s": chosen(trace["time_s"]), "knobs": knobs, "routers": routers}


def positions(
    threat: Mapping[str, Any], knobs: Mapping[str, Sequence[float | None]]
) -> dict[str, list[float | None]]:
    """Where the knobs stand between neutral, 0, and their bounds, 1 or -1; those that moved most first.

    The threat names those of an instance once, ``slowdown[i]``; a trace names each, ``slowdown[2]``.
    """
    bounds = {knob_kind(knob["name"]): knob for knob in threat.get("knobs", ())}
    found = {}
    for name, series in knobs.items():
        known = [held for held in series if held is not None]
        knob = bounds.get(knob_kind(name)) or {
            "neutral": 0.0,
            "low": min(known, default=0.0),
            "high": max(known, default=0.0),
        }
        neutral, low, high = knob["neutral"], knob["low"], knob["high"]

        def place(
            held: float | None, neutral: float = neutral, low: float = low, high: float = high
        ) -> float | None:
            if held is None:
                return None
            width = (high - neutral) if held >= neutral else (neutral - low)
            return (held - neutral) / width if width > 0.0 else 0.0

        found[name] = [place(held) for held in series]
    return dict(sorted(found.items(), key=lambda item: -_moved(item[1])))


def _with_unit(held: float | None, unit: str) -> str:
    return plain(held) + ("" if unit in ("", "1") or held is None else f" {unit}")


def _moved(series: Sequence[float | None]) -> float:
    return float(np.sum(np.abs([held or 0.0 for held in series])))


def _trace(report: Report, number: str, trace: Mapping[str, Any]) -> str:
    routers = trace["routers"]
    threat = (report.get("threats") or {}).get(trace.get("threat")) or {}
    placed = {name: at for name, at in positions(threat, trace["knobs"]).items() if _moved(at) > 0.0}
    names = (report.get("scenario") or {}).get("instances") or []
    return element(
        "div",
        heading(3, trace["title"]),
        paragraph(f"Attack {trace['attack']} on {trace['victim']}."),
        heading(4, "What the attacker did"),
        _knobs(threat, trace, placed),
        heading(4, "Where each router sent the requests"),
        *(_shares(trace, name, held, names) for name, held in routers.items()),
        heading(4, "What came of it"),
        _lines(report, trace, "waiting", "requests waiting", False),
        _lines(report, trace, "ttft_s", "mean TTFT, s", True),
        folded("Numbers", _table(trace, list(placed)[:MAX_KNOBS])),
        tags={"trace": number},
    )


def _time(trace: Mapping[str, Any], title: str, **axis: Any) -> dict[str, Any]:
    times = trace["time_s"]
    span = [times[0], times[-1]] if len(times) > 1 else None
    return {
        "xaxis": {"title": {"text": "seconds since the attack began"}, "range": span},
        "yaxis": {"title": {"text": title}, **axis},
        "height": 300,
        "hovermode": "x unified",
    }


def _knobs(
    threat: Mapping[str, Any], trace: Mapping[str, Any], placed: Mapping[str, list[float | None]]
) -> str:
    units = {knob_kind(knob["name"]): knob["unit"] for knob in threat.get("knobs", ())}
    shown = list(placed)[:MAX_KNOBS]
    if not shown:
        return paragraph("No knob was ever turned.")
    drawn = styles(shown)
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": trace["time_s"],
            "y": placed[name],
            "text": [_with_unit(held, units.get(knob_kind(name), "")) for held in trace["knobs"][name]],
            "hovertemplate": "%{text}",
            "line": {"shape": "hv", "color": drawn[name].colour, "dash": drawn[name].dash, "width": 2},
        }
        for name in shown
    ]
    caption = "Knobs: 0 is neutral, ±1 the bounds."
    if len(placed) > len(shown):
        caption += f" Of {len(placed)} that moved, the {len(shown)} that moved most."
    alt = f"Knobs that the attacker turned over time: {', '.join(shown)}; most of all {shown[0]}."
    return figure(caption, alt, {"data": data, "layout": _time(trace, "place between bounds")})


def _shares(trace: Mapping[str, Any], router: str, held: Mapping[str, Any], names: Sequence[str]) -> str:
    shares = held["share"]
    labels = [names[place] if place < len(names) else f"instance {place}" for place in range(len(shares))]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "shares",
            "name": label,
            "x": trace["time_s"],
            "y": series,
            "hovertemplate": "%{y:.0%}",
            "line": {"width": 0.5, "color": COLOURS[place % len(COLOURS)]},
            "fillcolor": COLOURS[place % len(COLOURS)],
            "fillpattern": {"shape": ("", "/", ".", "x")[place // len(COLOURS) % len(DASHES)]},
        }
        for place, (label, series) in enumerate(zip(labels, shares, strict=True))
    ]
    means = [float(np.mean([held or 0.0 for held in series])) if series else 0.0 for series in shares]
    alt = f"Shares of requests that {router} sent to {len(shares)} instances over time."
    if means:
        most = int(np.argmax(means))
        alt += f" Most went to {labels[most]}, {percent(means[most])} in the mean."
    layout = _time(trace, "share of requests", range=[0, 1], tickformat=".0%") | {"height": 260}
    return figure(f"{router}: shares of the instances.", alt, {"data": data, "layout": layout})


def _lines(report: Report, trace: Mapping[str, Any], key: str, title: str, is_log: bool) -> str:
    drawn = styles(trace["routers"], yardstick(report))
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": trace["time_s"],
            "y": held[key],
            "hovertemplate": "%{y:.3g}",
            "line": {"color": drawn[name].colour, "dash": drawn[name].dash, "width": drawn[name].width},
        }
        for name, held in trace["routers"].items()
    ]
    most = {
        name: max((at for at in held[key] if at is not None), default=0.0)
        for name, held in trace["routers"].items()
    }
    form = seconds if is_log else plain
    alt = (
        f"{title[0].upper()}{title[1:]}, over time; at most "
        + ", ".join(f"{form(at)} with {name}" for name, at in most.items())
        + "."
    )
    layout = _time(trace, title, **({"type": "log"} if is_log else {"rangemode": "tozero"}))
    return figure(
        f"{title[0].upper()}{title[1:]}{' (logarithmic)' if is_log else ''}.",
        alt,
        {"data": data, "layout": layout},
    )


def _table(trace: Mapping[str, Any], knobs: Sequence[str]) -> str:
    times = trace["time_s"]
    stride = max(-(-len(times) // MAX_LINES), 1)
    header = ["second", *knobs]
    header += [
        f"{name}: {words}" for name in trace["routers"] for words in ("largest share", "waiting", "TTFT")
    ]
    rows = []
    for at in range(0, len(times), stride):
        cells = [plain(times[at]), *(plain(value(trace["knobs"][name][at])) for name in knobs)]
        for held in trace["routers"].values():
            largest = max((value(series[at]) or 0.0 for series in held["share"]), default=None)
            cells += [
                NOTHING if largest is None else percent(largest),
                plain(value(held["waiting"][at])),
                seconds(value(held["ttft_s"][at])),
            ]
        rows.append(Row(cells))
    said = "some instants of the time line" if stride > 1 else "the time line"
    return table(f"{trace['title']}: {said}", header, rows)
