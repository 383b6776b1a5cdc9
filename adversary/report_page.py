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
from typing import Any

from adversary.page import attackers, attacks, defences, method, overview, sweeps, traces, training, transfer
from agents.page.document import document
from agents.page.markup import element

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
    verdicts = element(
        "section",
        element("h2", "How wrong may its signals be before it is worse than round robin?", id="verdicts"),
        overview.headline(report),
        aria_labelledby="verdicts",
    )
    tabs = {name: (words, tab(report)) for name, (words, tab) in TABS.items()}
    return document(title, str(report.get("command") or ""), verdicts, tabs)
