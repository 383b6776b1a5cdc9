"""End-to-end latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reward.interval import Interval
from reward.term import checked_attribution


@dataclass(frozen=True, slots=True)
class E2e:
    """Minus the end-to-end latency. Sums over an episode to minus the sum of all E2E latencies.

    The attributions are those of ``reward.ttft.Ttft``, over the requests not yet completed.
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
            return -interval.in_flight_request_s
        return -float(interval.e2e_s.sum())
