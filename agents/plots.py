"""The pictures that lie beside the results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.files import write
from agents.likeness import LATENCIES, Worlds

MAX_POINTS = 2000
"""Points drawn of one curve."""


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG; without date and version, so that the same results give the same bytes."""
    write(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))


def line_styles(names: Sequence[str], emphasised: Collection[str]) -> dict[str, dict[str, Any]]:
    """How to draw each policy: the emphasised ones thick and dark, the others thin and paler."""
    pale, dark = colormaps["tab20"].colors, colormaps["Dark2"].colors  # type: ignore[attr-defined]
    styles: dict[str, dict[str, Any]] = {}
    num_pale = num_dark = 0
    for name in names:
        if name in emphasised:
            styles[name] = {"color": dark[num_dark % len(dark)], "linewidth": 2.4, "zorder": 3}
            num_dark += 1
        else:
            dashes = _LINES[num_pale // len(pale) % len(_LINES)]
            styles[name] = {"color": pale[num_pale % len(pale)], "linewidth": 1.0, "linestyle": dashes}
            num_pale += 1
    return styles


def finish(figure: Figure, axis: Any, path: Path) -> None:
    """Write a picture, with the legend of ``axis``, if it has any, beside it."""
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    save(figure, path)


def ttft_cdf(
    ttft_s: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]], emphasised: Collection[str], path: Path
) -> None:
    """Draw the distribution of TTFT of each policy over all seeds.

    Args:
        ttft_s: Policy name -> TTFT of its requests; drawn in this order.
        emphasised: The policies to draw thick.
        path: The PNG file.
    """
    figure, axis = _figure()
    styles = line_styles(list(ttft_s), emphasised)
    for name, values in ttft_s.items():
        shares = np.linspace(0.0, 1.0, min(len(values), MAX_POINTS))
        quantiles = np.quantile(values, shares) if len(values) else shares  # it may have served nobody
        axis.plot(quantiles, shares, label=name, **styles[name])
    if any(len(values) for values in ttft_s.values()):
        axis.set_xscale("log")
    axis.set_xlabel("time to first token, s")
    axis.set_ylabel("share of requests")
    finish(figure, axis, path)


def ttft_over_time(
    curves: pd.DataFrame, order: Sequence[str], emphasised: Collection[str], path: Path
) -> None:
    """Draw each policy's mean TTFT over simulated time; of the emphasised ones also the range over seeds.

    Args:
        curves: Columns ``policy, seed, window_begins_at_s, ttft_mean_s``.
        order: The policies as they are to be listed.
        emphasised: The policies to draw thick.
        path: The PNG file.
    """
    figure, axis = _figure()
    styles = line_styles(order, emphasised)
    for name in order:
        by_time = curves[curves["policy"] == name].groupby("window_begins_at_s")["ttft_mean_s"]
        mean = by_time.mean()
        minutes = mean.index.to_numpy() / 60
        axis.plot(minutes, mean, label=name, **styles[name])
        if name in emphasised:
            axis.fill_between(
                minutes, by_time.min(), by_time.max(), color=styles[name]["color"], alpha=0.15, linewidth=0
            )
    if curves["ttft_mean_s"].notna().any():
        axis.set_yscale("log")
    axis.set_xlabel("simulated minutes since a cold start")
    axis.set_ylabel("mean time to first token of the requests that then arrived, s")
    finish(figure, axis, path)


def distributions(worlds: Mapping[str, Sequence[Worlds]], path: Path) -> None:
    """Draw the distribution of each latency of each policy, in the real world and in the modelled one.

    Args:
        worlds: Policy name -> its requests, one entry per seed.
        path: The PNG file.
    """
    figure = Figure(figsize=(4 * len(LATENCIES), 2.4 * len(worlds)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(worlds), len(LATENCIES), squeeze=False)
    for row, (name, of_policy) in zip(axes, worlds.items(), strict=True):
        for axis, latency in zip(row, LATENCIES, strict=True):
            for label, color, line in (("live", "black", "-"), ("emulated", "tab:red", "--")):
                tables = [world.real if label == "live" else world.modelled for world in of_policy]
                values = np.concatenate([table[latency] for table in tables])
                shares = np.linspace(0.0, 1.0, min(len(values), MAX_POINTS))
                axis.plot(np.quantile(values, shares), shares, label=label, color=color, linestyle=line)
            axis.set_title(f"{name}: {latency.removesuffix('_s').upper()}", fontsize=8)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("s")
    axes[0][0].legend(fontsize=7)
    save(figure, path)


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
    save(figure, path)


_LINES = ("-", "--", ":", "-.")
