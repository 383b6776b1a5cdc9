"""A heat map and its table, of rows and columns that filters can leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import ceil
from typing import Any, NamedTuple

from agents.page.markup import Cell, Row, Tags, element, figure, folded, table
from agents.page.palette import HEAT, doublings, shade
from agents.page.wording import change, percent

Form = Callable[[float | None], str]


class Matrix(NamedTuple):
    """Figures of rows and columns; None where there is none."""

    title: str
    alt: str
    corner: str
    """What the rows are."""
    across: str
    """What the columns are."""
    rows: Mapping[str, Tags]
    columns: Mapping[str, Tags]
    values: Sequence[Sequence[float | None]]
    """``[rows][columns]``."""
    texts: Sequence[Sequence[str]]
    """What the table says of each."""
    is_share: bool = False
    """Whether the figures are shares lost, from 0 to 1, rather than rises, which have no end."""
    marked: Sequence[tuple[str, str]] = ()
    """(row, column) of cells to mark."""


def show(matrix: Matrix, tags: Tags) -> str:
    """Heat map, with its table folded below it."""
    drawn = figure(matrix.title, matrix.alt, _heat_map(matrix), tags, _scale(matrix))
    return drawn + folded("Numbers", _table(matrix), tags=tags)


def _places(matrix: Matrix) -> tuple[list[list[float | None]], float]:
    place = (lambda held: max(held, 0.0)) if matrix.is_share else doublings
    places = [[None if held is None else round(place(held), 4) for held in row] for row in matrix.values]
    most = max((held for row in places for held in row if held is not None), default=0.0)
    return places, 1.0 if matrix.is_share else max(float(ceil(most)), 1.0)


def _heat_map(matrix: Matrix) -> dict[str, Any]:
    places, most = _places(matrix)
    form: Form = percent if matrix.is_share else change
    trace = {
        "type": "heatmap",
        "x": list(matrix.columns),
        "y": list(matrix.rows),
        "z": places,
        "customdata": [list(row) for row in matrix.texts],
        "hovertemplate": f"{matrix.corner} %{{y}}<br>{matrix.across} %{{x}}<br>%{{customdata}}"
        + "<extra></extra>",
        "hoverongaps": False,
        "colorscale": HEAT.capitalize(),
        "zmin": 0.0,
        "zmax": most,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
    }
    cells = [
        (column, row, form(held), (shade(place, most) or ("", ""))[1])
        for row, of_row, placed in zip(matrix.rows, matrix.values, places, strict=True)
        for column, held, place in zip(matrix.columns, of_row, placed, strict=True)
        if held is not None
    ]
    xs, ys, texts, inks = (list(held) for held in zip(*cells, strict=True)) if cells else ([], [], [], [])
    unseen = {"type": "scatter", "hoverinfo": "skip", "showlegend": False}
    written = unseen | {
        "mode": "text",
        "x": xs,
        "y": ys,
        "text": texts,
        "textfont": {"color": inks, "size": 11},
    }
    layout = {
        "xaxis": {"type": "category", "side": "top", "tickangle": -45, "dtick": 1, "showgrid": False},
        "yaxis": {"type": "category", "autorange": "reversed", "dtick": 1, "showgrid": False},
        "meta": {
            "rows": dict(matrix.rows),
            "columns": dict(matrix.columns),
            "row_height": 34,
            "marked": [list(cell) for cell in matrix.marked],
        },
        "height": 200 + 34 * len(matrix.rows),
    }
    return {"data": [trace, written], "layout": layout}


def _scale(matrix: Matrix) -> str:
    """What the colours mean, in a few steps."""
    _, most = _places(matrix)
    cells = []
    steps = [0.0, 0.25, 0.5, 0.75, 1.0] if matrix.is_share or most == 1.0 else list(range(int(most) + 1))
    for place in steps if len(steps) < 7 else steps[::2]:
        paper, ink = shade(place, most) or ("", "")
        text = percent(place) if matrix.is_share else change(2.0**place - 1.0)
        cells.append(element("span", escape(text), style=f"background:{paper};color:{ink}"))
    return element("div", *cells, class_="scale")


def _table(matrix: Matrix) -> str:
    places, most = _places(matrix)
    header: list[str | Cell] = [matrix.corner]
    header += [Cell(name, tags=tags) for name, tags in matrix.columns.items()]
    rows = []
    cells: list[str | Cell]
    for (name, tags), texts, of_row in zip(matrix.rows.items(), matrix.texts, places, strict=True):
        cells = [name]
        cells += [
            Cell(text, shade(place, most), of_column)
            for text, place, of_column in zip(texts, of_row, matrix.columns.values(), strict=True)
        ]
        rows.append(Row(cells, tags))
    return table(matrix.title, header, rows)
