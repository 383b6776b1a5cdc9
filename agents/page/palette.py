"""Colours that the colour-blind tell apart and that are seen on white as well as on near black."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c26b9b", "#b5831a", "#3a93d0", "#8a6bc4")
"""After Okabe and Ito (2008); where theirs are too pale or too dark for one of the themes, a neighbour."""
GREY = "#868d97"
"""Of what the others are compared with."""
DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = ("circle", "square", "triangle-up", "x", "triangle-down", "cross", "star")


class Style(NamedTuple):
    """How to draw a curve; the words are plotly's."""

    colour: str
    dash: str
    marker: str
    width: float = 2.0


def styles(names: Iterable[str], yardstick: str = "") -> dict[str, Style]:
    """A style for each name, no two alike for the first 28; the yardstick is grey and thick."""
    found: dict[str, Style] = {}
    place = 0
    for name in names:
        if name == yardstick:
            found[name] = Style(GREY, "solid", "diamond", 4.0)
            continue
        found[name] = Style(
            COLOURS[place % len(COLOURS)],
            DASHES[place // len(COLOURS) % len(DASHES)],
            MARKERS[place % len(MARKERS)],
        )
        place += 1
    return found


def doublings(degradation: float) -> float:
    """Place of a rise on a scale of doublings: 0 unchanged or better, 1 twice as much, 2 four times."""
    return max(log2(max(1.0 + degradation, 1e-9)), 0.0)


def shade(place: float | None, most: float) -> tuple[str, str] | None:
    """Background and text of a cell at ``place`` on a scale from 0 to ``most``, as the heat maps show it."""
    if place is None or most <= 0.0:
        return None
    red, green, blue, _ = colormaps[HEAT](min(max(place / most, 0.0), 1.0))
    is_bright = luminance(to_hex((red, green, blue))) > 0.18
    return to_hex((red, green, blue)), "#000000" if is_bright else "#ffffff"


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


HEAT = "cividis"
"""Made for colour-blind readers (Nuñez et al. 2018); matplotlib and plotly both have it."""
