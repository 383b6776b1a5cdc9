"""Intervals by resampling stretches of time.

Neighbouring requests meet the same queues, so that decisions are no independent samples: whole stretches
of them are resampled (Carlstein 1986; the block bootstrap). The weights' own noise would not need it, since
each decision was drawn anew; the contexts do, which come in waves. An interval so tells how far an estimate
would differ in another recording of the same kind, where the wave length is below a stretch's; one over few
stretches is too narrow.
"""

from __future__ import annotations

from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agents.comparison import Estimate, bootstrap
from agents.ope.estimators import Ratio

Array = NDArray[np.float64]


def blocks(episode: NDArray[np.int64], num_blocks: int) -> NDArray[np.int64]:
    """Number of the stretch that each decision belongs to, ascending from 0, ``[num_decisions]``.

    About ``num_blocks`` stretches of some equal number of decisions, none of them across two episodes.

    Args:
        episode: Of each decision, ascending, ``[num_decisions]``.
        num_blocks: How many to make.
    """
    wanted = len(episode) / num_blocks  # decisions in each
    number, first = np.empty(len(episode), np.int64), 0
    for size in np.unique(episode, return_counts=True)[1]:
        parts = min(max(round(size / wanted), 1), size)
        of_episode = np.arange(size) * parts // size
        start = int(number[first - 1]) + 1 if first else 0
        number[first : first + size] = start + of_episode
        first += size
    return number


def interval(ratio: Ratio, block: NDArray[np.int64], seed: int) -> Estimate:
    """An estimate with its 95 % interval: percentile bootstrap (scipy) over stretches.

    The interval is NaN where there is one stretch, or where weights are so few that a resample has none.

    Args:
        ratio: The estimate.
        block: The stretch of each decision, ``[num_decisions]``.
        seed: Of the resampling.
    """
    above, below = (np.bincount(block, values).astype(np.float64) for values in ratio)

    def statistic(above: Array, below: Array, axis: int) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(above.sum(axis=axis) / below.sum(axis=axis))

    with catch_warnings():
        simplefilter("ignore", stats.DegenerateDataWarning)
        return bootstrap((above, below), statistic, ratio.value, seed)
