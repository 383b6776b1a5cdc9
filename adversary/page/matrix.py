"""A heat map and its table, of rows and columns that filters can leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from adversary.page.markup import Cell, Row, Tags, figure, folded, table
from adversary.page.palette import HEAT, doublings, shade
from adversary.page.wording import change, percent

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
    return figure(matrix.title, matrix.alt, _heat_map(matrix), tags) + folded("Numbers", _table(matrix), tags=tags)


def _places(matrix: Matrix) -> tuple[list[list[float | None]], float]:
    place = (lambda held: max(held, 0.0)) if matrix.is_share else doublings
    places = [[None if held is None else round(place(held), 4) for held in row] for row in matrix.values]
    most = max((held for row in places for held in row if held is not None), default=0.0)
    return places, 1.0 if matrix.is_share else max(most, 1.0)


def _heat_map(matrix: Matrix) -> dict[str, Any]:
    places, most = _places(matrix)
    form: Form = percent if matrix.is_share else change
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if matrix.is_share else [float(at) for at in range(int(most) + 1)]
    names = [percent(at) if matrix.is_share else change(2.0**at - 1.0) for at in ticks]
    trace = {
        "type": "heatmap",
        "x": list(matrix.columns),
        "y": list(matrix.rows),
        "z": places,
        "text": [[form(held) for held in row] for row in matrix.values],
        "customdata": [list(row) for row in matrix.texts],
        "texttemplate": "%{text}",
        "hovertemplate": f"{matrix.corner} %{{y}}<br>{matrix.across} %{{x}}<br>%{{customdata}}<extra></extra>",
        "hoverongaps": False,
        "colorscale": HEAT.capitalize(),
        "zmin": 0.0,
        "zmax": most,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"tickvals": ticks, "ticktext": names, "thickness": 12, "len": 0.9},
    }
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": [column for _, column in matrix.marked],
        "y": [row for row, _ in matrix.marked],
        "hoverinfo": "skip",
        "showlegend": False,
        "marker": {"symbol": "square-open", "size": 26, "color": "#ffffff", "line": {"width": 2}},
    }
    layout = {
        "xaxis": {"type": "category", "side": "top", "tickangle": -45, "title": {"text": matrix.across}},
        "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": matrix.corner}},
        "meta": {"rows": dict(matrix.rows), "columns": dict(matrix.columns), "row_height": 34},
        "height": 200 + 34 * len(matrix.rows),
    }
    return {"data": [trace, marks] if matrix.marked else [trace], "layout": layout}


def _table(matrix: Matrix) -> str:
    places, most = _places(matrix)
    header = [matrix.corner, *(Cell(name, tags=tags) for name, tags in matrix.columns.items())]
    rows = []
    for (name, tags), texts, of_row in zip(matrix.rows.items(), matrix.texts, places, strict=True):
        cells = [
            Cell(text, shade(place, most), of_column)
            for text, place, of_column in zip(texts, of_row, matrix.columns.values(), strict=True)
        ]
        rows.append(Row([name, *cells], tags))
    return table(matrix.title, header, rows)
