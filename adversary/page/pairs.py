"""A picture of what was before and after, or without and with: two points and a line for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.page.markup import Tags, figure
from agents.page.palette import COLOURS
from agents.page.wording import interval, seconds, value


def pairs(
    title: str,
    alt: str,
    labels: Sequence[str],
    tags: Sequence[Tags],
    held: Sequence[tuple[Any, Any]],
    names: tuple[str, str],
) -> str:
    """The figure; ``held`` are the two estimates of a row, in seconds, ``tags`` what filters know of it."""
    values = [(value(first), value(second)) for first, second in held]
    bridges: list[Any] = []
    heights: list[Any] = []
    for label, (first, second) in zip(labels, values, strict=True):
        bridges += [first, second, None]
        heights += [label, label, label]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": bridges,
            "y": heights,
            "line": {"color": "#868d97", "width": 2},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    for place, (name, colour, symbol) in enumerate(
        zip(names, COLOURS[1::-1], ("circle-open", "circle"), strict=True)
    ):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [pair[place] for pair in values],
                "y": list(labels),
                "text": [interval(estimates[place], seconds) for estimates in held],
                "hovertemplate": f"%{{y}}<br>{name}: %{{text}}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2}},
            }
        )
    layout = {
        "xaxis": {"type": "log", "title": {"text": "mean TTFT, s"}},
        "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
        "meta": {"rows": dict(zip(labels, map(dict, tags), strict=True)), "row_height": 30},
    }
    return figure(f"{title} (logarithmic).", alt, {"data": data, "layout": layout})
