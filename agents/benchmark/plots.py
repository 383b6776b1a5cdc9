"""The benchmark's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from agents.benchmark.aggregate import performance_profile
from agents.benchmark.standings import FIGURES, Kind
from agents.benchmark.table import HEADINGS
from agents.plots import finish, line_styles

TAUS = np.geomspace(0.2, 10.0, 400)


def profiles(
    costs: Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]],
    kinds: Mapping[str, Kind],
    path: Path,
) -> None:
    """Draw performance profiles: how often a policy costs at most so many times what the best rule does.

    Args:
        costs: Figure -> policy -> scenario -> its costs, ``[num_seeds]``.
        kinds: Policy -> what it is; those that are no rules are drawn thick.
        path: The PNG file.
    """
    figure = Figure(figsize=(13, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    emphasised = [name for name, kind in kinds.items() if kind != "rule"]
    for axis, (name, policies) in zip(axes, costs.items(), strict=True):
        drawn = line_styles(list(policies), emphasised)
        for policy, scores in policies.items():
            axis.plot(TAUS, performance_profile(list(scores.values()), TAUS), label=policy, **drawn[policy])
        axis.axvline(1.0, color="grey", linewidth=0.6)
        _of_costs(axis, name)
    axes[0].set_ylabel("share of streams, all scenarios alike")
    finish(figure, axes[-1], path)


def against_best_rule(scenarios: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw each policy's difference from the best rule of each scenario, with its interval.

    Drawn are those that learn and the bound; where there are none, the rules.

    Args:
        scenarios: Of ``summary.json``.
        path: The PNG file.
    """
    order = list(scenarios)
    figure = Figure(figsize=(13, 1.5 + 0.3 * len(order)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(FIGURES), sharey=True, squeeze=False)[0]
    kinds: dict[str, str] = {}
    for standings in scenarios.values():
        kinds |= {name: row["kind"] for name, row in standings[FIGURES[0]]["policies"].items()}
    shown = [name for name, kind in kinds.items() if kind != "rule"] or list(kinds)
    drawn = line_styles(shown, shown)
    for axis, name in zip(axes, FIGURES, strict=True):
        for at, policy in enumerate(shown):
            for place, scenario in enumerate(order):
                row = scenarios[scenario][name]["policies"].get(policy, {}).get("against_best_rule")
                if row is None or row[0] is None:
                    continue
                height = place + 0.6 * ((at + 0.5) / len(shown) - 0.5)
                color = drawn[policy]["color"]
                label = policy if policy not in axis.get_legend_handles_labels()[1] else None
                axis.plot(
                    1 + row[0], height, marker="o", markersize=3, color=color, label=label, linestyle=""
                )
                if row[1] is not None:
                    axis.plot([1 + row[1], 1 + row[2]], [height, height], color=color, linewidth=1)
        axis.axvline(1.0, color="grey", linewidth=0.6, label="best rule")
        _of_costs(axis, name)
    axes[0].set_yticks(range(len(order)), order, fontsize=7)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    finish(figure, axes[-1], path)


def _of_costs(axis: Axes, figure: str) -> None:
    """Say that the x axis is of costs, in plain numbers."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.set_xlabel(f"{HEADINGS[figure]}, times the best rule's")
    axis.grid(alpha=0.3)
