"""How long something takes: the last times, for percentiles, and all of them, for a histogram."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

BOUNDS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)
"""Upper bounds of the histogram's buckets."""
WINDOW = 4096


class Timings:
    """Durations in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        """Of each bucket, the last one without bound."""
        self.sum_s = 0.0
        self._last_s = np.zeros(WINDOW)
        self._num = 0

    def add(self, duration_s: float) -> None:
        """Take one in."""
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s
        self._last_s[self._num % WINDOW] = duration_s
        self._num += 1

    def percentile_s(self, percent: float) -> float:
        """Of the last ``WINDOW``; NaN without any."""
        held = self._last_s[: min(self._num, WINDOW)]
        return float(np.percentile(held, percent)) if len(held) else float("nan")
