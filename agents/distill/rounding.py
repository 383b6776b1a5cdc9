"""To which figures the numbers of a rule are rounded, before anything is measured of it."""

from __future__ import annotations

NUM_FIGURES = 3


def rounded(value: float, num_figures: int = NUM_FIGURES) -> float:
    """A number to so many figures: what is printed is the whole rule."""
    return float(f"{value:.{num_figures}g}") + 0.0  # no -0
