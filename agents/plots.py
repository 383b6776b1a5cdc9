"""The pictures that lie beside the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.files import write

MAX_POINTS = 2000
"""Points drawn of one curve."""


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    # No date and no version in the file: the same results give the same bytes.
    write(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))


def ttft_cdf(ttft_s: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]], path: Path) -> None:
    """Draw the distribution of TTFT of each policy over all seeds.

    Args:
        ttft_s: Policy name -> TTFT of its requests; drawn in this order.
        path: The PNG file.
    """
    figure, axis = _figure()
    for number, (name, values) in enumerate(ttft_s.items()):
        shares = np.linspace(0.0, 1.0, min(len(values), MAX_POINTS))
        axis.plot(
            np.quantile(values, shares), shares, label=name, linestyle=_LINES[number // 10 % 4], linewidth=1.3
        )
    axis.set_xscale("log")
    axis.set_xlabel("time to first token, s")
    axis.set_ylabel("share of requests")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    _save(figure, path)


def ttft_over_time(curves: pd.DataFrame, path: Path) -> None:
    """Draw the mean TTFT over simulated time of each policy, with the range over seeds.

    Args:
        curves: Columns ``policy, seed, window_begins_at_s, ttft_mean_s``.
        path: The PNG file.
    """
    figure, axis = _figure()
    for number, (name, rows) in enumerate(curves.groupby("policy", sort=False)):
        by_time = rows.groupby("window_begins_at_s")["ttft_mean_s"]
        mean = by_time.mean()
        minutes = mean.index.to_numpy() / 60
        (line,) = axis.plot(minutes, mean, label=name, linestyle=_LINES[number // 10 % 4], linewidth=1.3)
        axis.fill_between(minutes, by_time.min(), by_time.max(), color=line.get_color(), alpha=0.08)
    axis.set_yscale("log")
    axis.set_xlabel("simulated minutes since a cold start")
    axis.set_ylabel("mean time to first token, s")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    _save(figure, path)


def learning_curve(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw a training run's figures over its decisions, one panel each; nothing where there are none."""
    names = sorted({name for row in rows for name in row} - {"step"})
    if not names:
        return
    figure = Figure(figsize=(8, 1.6 * len(names)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(len(names), 1, sharex=True))
    for axis, name in zip(axes, names, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "")
        axis.set_ylabel(name, fontsize=6)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("routing decisions")
    _save(figure, path)


_LINES = ("-", "--", ":", "-.")
