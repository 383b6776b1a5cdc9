"""The laws that lengths, pauses and popularity are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LogNormal:
    """exp(N(ln median, sigma)), clipped to [min, max]; p90 = median * exp(1.2816 sigma) before clipping."""

    median: float
    sigma: float
    min: float
    max: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.min <= self.median <= self.max < float("inf") and self.median > 0.0):
            raise ValueError(f"{self}: 0 <= min <= median <= max must hold, with a median above 0")
        if not 0.0 <= self.sigma < float("inf"):
            raise ValueError(f"{self}: sigma must be a number from 0")

    def draw(self, rng: np.random.Generator, num: int) -> NDArray[np.float64]:
        """Draw ``[num]`` values."""
        values = self.median * np.exp(self.sigma * rng.standard_normal(num))
        return np.clip(values, self.min, self.max)

    def draw_whole(self, rng: np.random.Generator, num: int) -> NDArray[np.int64]:
        """Draw ``[num]`` values rounded to whole numbers, at least 1."""
        return np.maximum(np.rint(self.draw(rng, num)), 1.0).astype(np.int64)


def zipf_shares(num: int, exponent: float) -> NDArray[np.float64]:
    """Popularity ``[num]`` that falls with rank to the power ``-exponent`` (0: uniform); sums to 1."""
    if num < 1 or not 0.0 <= exponent < float("inf"):
        raise ValueError(f"{num} ranks with exponent {exponent}: give at least 1 and an exponent from 0")
    shares = np.arange(1, num + 1, dtype=np.float64) ** -exponent
    return np.asarray(shares / shares.sum())


def tenant_shares(num_tenants: int, weights: Sequence[float] | None) -> NDArray[np.float64]:
    """Each tenant's share of the load ``[num_tenants]``, from weights (None: equal); sums to 1."""
    if num_tenants < 1:
        raise ValueError(f"num_tenants is {num_tenants}: it must be at least 1")
    shares = np.ones(num_tenants) if weights is None else np.array(list(weights), np.float64)
    if len(shares) != num_tenants or not (np.isfinite(shares) & (shares >= 0.0)).all() or shares.sum() == 0.0:
        raise ValueError(
            f"tenant_weights is {shares.tolist()}: give {num_tenants} numbers from 0, not all 0, or null"
        )
    return np.asarray(shares / shares.sum())
