"""What routers before one fleet tell each other: what each counts of its own requests, which adds up.

Without it a router sees only its own share of the load at each instance, and several of them herd. Dynamo's
routers keep their replicas in step in the same way (``--router-replica-sync``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs import observation as columns

COUNTED = (
    columns.NUM_IN_FLIGHT,
    columns.NUM_IN_FLIGHT_PREFILLS,
    columns.NUM_IN_FLIGHT_PREFILL_TOKENS,
    columns.NUM_IN_FLIGHT_UNCACHED_TOKENS,
    columns.NUM_IN_FLIGHT_DECODE_TOKENS,
    columns.NUM_SENT_SINCE_SCRAPE,
    columns.NUM_TOKENS_SENT_SINCE_SCRAPE,
    columns.RECENT_TOKENS_PER_S,
)
"""Columns of ``observation["instances"]`` that are sums over requests, so that those of routers add up."""
NUM_TTFT = 2
"""Further sums: TTFT and requests of late, of which ``recent_ttft_s`` is the quotient."""


class Counts(NamedTuple):
    """Of one router, or of several together."""

    instances: NDArray[np.float64]
    """``[num_instances, len(COUNTED) + NUM_TTFT]``."""
    arrivals_per_s: float

    def plus(self, other: Counts) -> Counts:
        """Those of both."""
        return Counts(self.instances + other.instances, self.arrivals_per_s + other.arrivals_per_s)

    def minus(self, other: Counts) -> Counts:
        """Those without the other's."""
        return Counts(self.instances - other.instances, self.arrivals_per_s - other.arrivals_per_s)


def none(num_instances: int) -> Counts:
    """Of a router that has sent nothing."""
    return Counts(np.zeros((num_instances, len(COUNTED) + NUM_TTFT)), 0.0)
