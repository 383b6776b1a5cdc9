"""The picture beside the figures: estimates with their intervals, and the weights that they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.files import write
from agents.ope.report import ESTIMATORS, UNITS, is_too_thin

NUM_BINS = 40


def draw(summary: Mapping[str, Any], weights: Mapping[str, NDArray[np.float64]], path: Path) -> None:
    """Draw each policy's estimates, and the distribution of its weights.

    Intervals that rest on too few decisions are left out.

    Args:
        summary: As ``ope.json`` holds it.
        weights: Policy name -> weight of each decision.
        path: The PNG file.
    """
    names = list(summary["policies"])
    figure = Figure(figsize=(11, 2.5 + 0.6 * len(names)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    estimates, histogram = figure.subplots(1, 2)
    _draw_estimates(estimates, summary, names)
    positive = [values[values > 0] for values in weights.values()]
    greatest = max((float(values.max()) for values in positive if len(values)), default=1.0)
    least = min((float(values.min()) for values in positive if len(values)), default=0.1)
    bins = np.geomspace(min(least, 0.1), max(greatest, 10.0), NUM_BINS + 1)
    for name in names:
        shown = weights[name][weights[name] > 0]
        label = f"{name} ({1 - len(shown) / len(weights[name]):.0%} are 0)"
        histogram.hist(shown, bins, histtype="step", label=label)
    histogram.set(xscale="log", yscale="log", xlabel="weight", ylabel="decisions")
    histogram.legend(fontsize=7)
    for axis in (estimates, histogram):
        axis.grid(alpha=0.3)
    # No date and no version in the file: the same results give the same bytes.
    write(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))


def _draw_estimates(axis: Any, summary: Mapping[str, Any], names: list[str]) -> None:
    recorded, num_decisions = summary["recorded"], summary["num_decisions"]
    too_thin = {name for name in names if is_too_thin(summary["policies"][name], num_decisions)}
    axis.axvline(recorded["value"], color="black", linestyle="--", label="as recorded")
    if recorded["low"] is not None:
        axis.axvspan(recorded["low"], recorded["high"], color="black", alpha=0.1)
    for number, (key, label) in enumerate(ESTIMATORS.items()):
        places = np.arange(len(names)) + 0.15 * (number - 1.5)
        found = [summary["policies"][name][key] for name in names]
        if key != "dm":  # which alone does not rest on weights
            no_interval = {"low": None, "high": None}
            found = [
                each | no_interval if name in too_thin else each
                for name, each in zip(names, found, strict=True)
            ]
        bounds = [
            [np.nan if each[bound] is None else each[bound] for each in found] for bound in ("low", "high")
        ]
        values = [np.nan if each["value"] is None else each["value"] for each in found]
        axis.plot(values, places, "o", color=f"C{number}", markersize=4, label=label)
        axis.hlines(places, *bounds, color=f"C{number}")
    axis.set(
        yticks=range(len(names)), yticklabels=names, xlabel=f"mean {UNITS[summary['cost']]}, per decision"
    )
    axis.invert_yaxis()
    axis.legend(fontsize=7)
