"""Service-level objectives missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reward.interval import Interval


@dataclass(frozen=True, slots=True)
class SloMiss:
    """Minus the requests that completed outside their objective. Sums to minus the number of misses."""

    unit: ClassVar[str] = "requests"

    def __call__(self, interval: Interval) -> float:
        """Its amount in this interval."""
        return -float((~interval.slo_met).sum())
