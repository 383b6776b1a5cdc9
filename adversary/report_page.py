"""The robustness report as one HTML page that needs nothing else: no network, no other file.

What it takes is what ``adversary.report`` writes as ``report.json``: plain values, estimates as
``{"value", "low", "high"}``, null where there is no figure. A rise (``degradation``, ``relative``,
``change``) is a share of what it is compared with: 0.5 is half as much again, and more is worse; of
goodput it is the share lost. A break-even is the first epsilon played at which a router is clearly worse,
null where there is none within the sweep. What is absent or empty is told as not part of the run.

    Path("report.html").write_text(page(report), encoding="utf-8")
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from adversary.page import attackers, attacks, defences, method, overview, sweeps, traces, training, transfer
from adversary.page.markup import element, heading

TABS = {
    "overview": ("Overview", overview.tab),
    "sweeps": ("Sweeps", sweeps.tab),
    "attacks": ("Attacks", attacks.tab),
    "transfer": ("Transfer", transfer.tab),
    "traces": ("Traces", traces.tab),
    "attackers": ("Attackers", attackers.tab),
    "defences": ("Defences", defences.tab),
    "training": ("Training", training.tab),
    "method": ("How it was done", method.tab),
}


def page(report: Mapping[str, Any]) -> str:
    """The whole page.

    Raises:
        ImportError: plotly is not installed; the error names the extra.
        ValueError: A figure of the report is not finite; write null instead.
    """
    title = str(report.get("title") or "Robustness report")
    held = files("adversary.page")
    style, script = (held.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    command = report.get("command")
    body = [
        element(
            "header",
            heading(1, title),
            element("p", "Made by ", element("code", escape(str(command))), class_="note") if command else "",
        ),
        element(
            "main",
            element(
                "section",
                element(
                    "h2", "How wrong may its signals be before it is worse than round robin?", id="verdicts"
                ),
                overview.headline(report),
                aria_labelledby="verdicts",
            ),
            _tabs(),
            *(_panel(name, words, tab(report)) for name, (words, tab) in TABS.items()),
        ),
        element("script", _plotly()),
        element("script", script),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def _tabs() -> str:
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
        for place, (name, (words, _)) in enumerate(TABS.items())
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
        raise ImportError("the report needs plotly: pip install 'routegym[robustness]'") from error
    return str(get_plotlyjs())
