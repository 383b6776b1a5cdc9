"""Choosing the best-scored instance, with random ties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_instances(
    scores: NDArray[np.float64], valid: NDArray[np.intp], tolerance: float
) -> NDArray[np.intp]:
    """Those of ``valid`` whose score is within ``tolerance``, relative to 1 + |best|, of the best.

    The tolerance is there because equal rows of a matrix product may differ in their last bits, and would
    then always fall to the same instance.
    """
    candidates = scores[valid]
    best = float(candidates.max())
    return valid[candidates >= best - tolerance * (1.0 + abs(best))]


def pick(instances: NDArray[np.intp], rng: np.random.Generator) -> int:
    """One of ``instances``, uniformly; no random number is drawn for a single one."""
    return int(instances[rng.integers(len(instances)) if len(instances) > 1 else 0])
