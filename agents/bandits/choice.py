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


def share_of_best(scores: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Propensity of each: the same for all within ``tolerance`` of the best, as ``best_instances`` has it."""
    best = scores.max()
    are_best = scores >= best - tolerance * (1.0 + np.absolute(best))
    shares: NDArray[np.float64] = are_best / np.count_nonzero(are_best)
    return shares


def pick(instances: NDArray[np.intp], rng: np.random.Generator) -> int:
    """One of ``instances``, uniformly; no random number is drawn for a single one."""
    return int(instances[rng.integers(len(instances)) if len(instances) > 1 else 0])
