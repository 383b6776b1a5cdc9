"""Goodput: work that was worth doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reward.interval import Interval


@dataclass(frozen=True, slots=True)
class Goodput:
    """Output tokens of the requests that completed within their objective. Sums to all such tokens."""

    unit: ClassVar[str] = "tokens"

    def __call__(self, interval: Interval) -> float:
        """Its amount in this interval."""
        return float(interval.num_output_tokens[interval.slo_met].sum())
