"""The frame of every page: a title, what stands above the tabs, and the tabs."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files

from agents.page.markup import element, heading


def document(title: str, command: str, opening: str, tabs: Mapping[str, tuple[str, str]]) -> str:
    """The whole page, which fetches nothing.

    Args:
        title: Of the page.
        command: That made it; empty: not told.
        opening: HTML that stands above all tabs.
        tabs: Id -> name for readers and HTML.

    Raises:
        ImportError: plotly is not installed; the error names the extra.
    """
    held = files("agents.page")
    style, script = (held.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    made_by = element("p", "Made by ", element("code", escape(command)), class_="note") if command else ""
    panels = (_panel(name, words, inside) for name, (words, inside) in tabs.items())
    body = [
        element("header", heading(1, title), made_by),
        element("main", opening, _tabs({name: words for name, (words, _) in tabs.items()}), *panels),
        element("script", _plotly()),
        element("script", script),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def _tabs(tabs: Mapping[str, str]) -> str:
    buttons = [
        element(
            "button",
            escape(words),
            role="tab",
            type="button",
            id=f"tab-{name}",
            aria_controls=name,
            aria_selected="true" if place == 0 else "false",
            tabindex=0 if place == 0 else -1,
        )
        for place, (name, words) in enumerate(tabs.items())
    ]
    return element("div", *buttons, role="tablist", aria_label="Parts of the report")


def _panel(name: str, words: str, inside: str) -> str:
    return element(
        "section",
        heading(2, words),
        inside,
        role="tabpanel",
        id=name,
        aria_labelledby=f"tab-{name}",
        tabindex=0,
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(
            "the page needs plotly: pip install 'routegym[robustness]' or 'routegym[sweeps]'"
        ) from error
    return str(get_plotlyjs())
