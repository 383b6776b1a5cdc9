"""Pictures of a fleet as its router sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs import observation as columns
from envs.cluster import InstanceTraits
from envs.observation import Observation

BAR = 20


def to_ansi(traits: Sequence[InstanceTraits], observation: Observation, now_s: float) -> str:
    """A line per instance: its queue and KV use when last scraped, in-flight requests, prefix hit."""
    rows = observation["instances"][: len(traits)]
    lines = [
        f"t = {now_s:.3f} s, a prompt of {observation['request'][columns.NUM_PROMPT_TOKENS]:.0f} tokens",
        f"  {'instance':<14}{'in flight':>10}{'running':>9}{'waiting':>9}{'KV used':>9}{'hit':>7}",
    ]
    for trait, row in zip(traits, rows, strict=True):
        filled = round(BAR * float(row[columns.FRAC_KV_CACHE_USAGE]))
        lines.append(
            f"  {trait.name:<14}{row[columns.NUM_IN_FLIGHT]:>10.0f}{row[columns.NUM_RUNNING]:>9.0f}"
            f"{row[columns.NUM_WAITING]:>9.0f}{row[columns.FRAC_KV_CACHE_USAGE]:>9.0%}"
            f"{row[columns.FRAC_PREFIX_HIT]:>7.0%}  [{'#' * filled}{'.' * (BAR - filled)}]"
        )
    return "\n".join(lines) + "\n"


def to_rgb_array(
    traits: Sequence[InstanceTraits], observation: Observation, now_s: float
) -> NDArray[np.uint8]:
    """The same as a picture, ``[480, 800, 3]``: bars of queue (waiting on running), KV use and hits."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = observation["instances"][: len(traits)].astype(np.float64)
    figure = Figure(figsize=(8, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(traits))
    running, waiting = rows[:, columns.NUM_RUNNING], rows[:, columns.NUM_WAITING]
    axes[0].barh(places, running, color="tab:blue", label="running")
    axes[0].barh(places, waiting, left=running, color="tab:orange", label="waiting")
    axes[0].legend(loc="upper right", fontsize=7)
    axes[1].barh(places, rows[:, columns.FRAC_KV_CACHE_USAGE], color="tab:green")
    axes[2].barh(places, rows[:, columns.FRAC_PREFIX_HIT], color="tab:purple")
    for axis, title in zip(axes, ("requests", "KV cache used", "prefix hit"), strict=True):
        axis.set_title(title, fontsize=9)
    axes[0].set_xlim(0, max(10.0, 1.1 * float((running + waiting).max())))
    axes[1].set_xlim(0, 1)
    axes[2].set_xlim(0, 1)
    axes[0].set_yticks(places, [trait.name for trait in traits], fontsize=7)
    axes[0].invert_yaxis()
    figure.suptitle(f"t = {now_s:.1f} s", fontsize=9)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]
