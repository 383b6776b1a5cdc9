"""Time to first token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reward.interval import Interval
from reward.term import checked_attribution


@dataclass(frozen=True, slots=True)
class Ttft:
    """Minus the TTFT. Sums over an episode to minus the sum of all TTFT, by either attribution.

    ``as_time_passes`` is minus the integral of the number of requests waiting for their first token, so that
    each interval bears just what was lost in it; ``at_completion`` gives each latency whole, but late.
    """

    unit: ClassVar[str] = "request·s"
    attribution: str = "as_time_passes"

    def __post_init__(self) -> None:
        """Refuse an unknown attribution."""
        checked_attribution(self.attribution)

    @property
    def integrals_only(self) -> bool:
        """Whether the latencies themselves are not looked at."""
        return self.attribution == "as_time_passes"

    def __call__(self, interval: Interval) -> float:
        """Its amount in this interval."""
        if self.attribution == "as_time_passes":
            return -interval.waiting_request_s
        return -float(interval.ttft_s.sum())
