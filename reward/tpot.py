"""Time per output token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reward.interval import Interval


@dataclass(frozen=True, slots=True)
class Tpot:
    """Minus the TPOT of the requests that completed. Sums over an episode to minus the sum of all TPOT."""

    unit: ClassVar[str] = "s/token"

    def __call__(self, interval: Interval) -> float:
        """Its amount in this interval."""
        return -float(interval.tpot_s.sum())
