"""HTML as strings: elements, tables, figures and filters.

Filters need no code of their own: an element (a row, a cell, a figure, ...) is marked with *tags*, such as
``{"kind": "load"}``, and is shown while every filter of its tab that bears the name of one of its tags stands
at its value, or at all. ``page.js`` does the same to the curves of a figure (the tags are their ``meta``) and
to the rows and columns of a heat map (``meta`` of the layout).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple

Tags = Mapping[str, str]
UNTAGGED: Tags = MappingProxyType({})


class Cell(NamedTuple):
    """A cell of a table that is more than its text."""

    text: str
    colours: tuple[str, str] | None = None
    """Background and text."""
    tags: Tags = UNTAGGED


class Row(NamedTuple):
    """A row of a table; its first cell is its header."""

    cells: Sequence[str | Cell]
    tags: Tags = UNTAGGED


def element(name: str, *inside: str, tags: Tags | None = None, **attributes: str | int | None) -> str:
    """An element around HTML; ``class_`` is class, ``aria_label`` is aria-label; None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    written += "".join(f' data-tag-{key}="{escape(value)}"' for key, value in (tags or {}).items())
    return f"<{name}{written}>{''.join(inside)}</{name}>"


def paragraph(text: str, class_: str | None = None) -> str:
    """A paragraph of plain text."""
    return element("p", escape(text), class_=class_)


def heading(level: int, text: str) -> str:
    """A heading of plain text."""
    return element(f"h{level}", breakable(text))


def breakable(text: str) -> str:
    """Plain text that may be broken within long names: after ``_`` and ``+``."""
    return escape(text).replace("_", "_<wbr>").replace("+", "+<wbr>")


def absent(what: str) -> str:
    """The sentence that stands for a section without results."""
    return paragraph(f"{what} not part of this run.", class_="absent")


def table(caption: str, header: Sequence[str | Cell], rows: Sequence[Row], tags: Tags | None = None) -> str:
    """A table that scrolls within the page where it is too wide for it."""

    def cell(held: str | Cell, name: str, scope: str | None) -> str:
        held = Cell(held) if isinstance(held, str) else held
        style = f"background:{held.colours[0]};color:{held.colours[1]}" if held.colours else None
        inside = breakable(held.text) if name == "th" else escape(held.text)
        return element(name, inside, tags=held.tags, scope=scope, style=style)

    head = element("tr", *(cell(held, "th", "col") for held in header))
    body = [
        element(
            "tr",
            cell(row.cells[0], "th", "row"),
            *(cell(held, "td", None) for held in row.cells[1:]),
            tags=row.tags,
        )
        for row in rows
    ]
    whole = element("table", element("thead", head), element("tbody", *body), aria_label=caption)
    return element(
        "div",
        paragraph(caption, class_="caption"),
        element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=f"Table: {caption}"),
        tags=tags,
    )


def folded(summary: str, *inside: str, tags: Tags | None = None) -> str:
    """What is shown when asked for."""
    return element("details", element("summary", escape(summary)), *inside, tags=tags)


def figure(caption: str, alt: str, spec: Mapping[str, Any], tags: Tags | None = None, below: str = "") -> str:
    """A figure of plotly's, drawn when it is first seen.

    Args:
        caption: Written below it.
        alt: What it shows, in words and with the main figures, for those who do not see it.
        spec: ``data`` and ``layout``; colours of the theme and fonts are the page's.
        tags: When to show it.
        below: HTML between it and its caption.
    """
    held = json.dumps(spec, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    return element(
        "figure",
        element("div", class_="plot", role="img", aria_label=alt),
        below,
        element("figcaption", escape(caption)),
        element("script", held, type="application/json"),
        tags=tags,
    )


def choice(name: str, label: str, options: Mapping[str, str], everything: str | None = None) -> str:
    """A filter of a tab.

    Args:
        name: Of the tags that it is about.
        label: Before it.
        options: Tag -> its name for readers.
        everything: Name of the option that shows all, which comes first; None: exactly one is shown.
    """
    shown = ({"": everything} if everything else {}) | dict(options)
    return element(
        "label",
        element("span", escape(label)),
        element(
            "select",
            *(element("option", escape(text), value=value) for value, text in shown.items()),
            data_filter=name,
        ),
    )


def filters(*choices: str) -> str:
    """The filters of a tab, those with one option left out."""
    kept = [held for held in choices if held.count("<option") > 1]
    return element("div", *kept, class_="filters", role="group", aria_label="Filters") if kept else ""
