"""What happened between two routing decisions, in plain numbers: all that a reward term may look at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NOTHING: NDArray[np.float64] = np.empty(0)


class Interval(NamedTuple):
    """The time from one decision to the next (or, after the last one, until nothing is in flight).

    The integrals are exact: a request counts from the instant it arrived to that of its event, also where
    those fall within the interval. A request that failed counts to the end of the interval in which that was
    learned.
    """

    duration_s: float = 0.0
    waiting_request_s: float = 0.0
    """Integral of the number of requests without a first token. Sums to the sum of all TTFT."""
    in_flight_request_s: float = 0.0
    """Integral of the number of requests not yet completed. Sums to the sum of all E2E latencies."""
    ttft_s: NDArray[np.float64] = _NOTHING
    """TTFT of the requests that were served to their end, ``[num_served]``."""
    tpot_s: NDArray[np.float64] = _NOTHING
    """Mean time per output token after the first, ``[num_served]``."""
    e2e_s: NDArray[np.float64] = _NOTHING
    """End-to-end latency, ``[num_served]``."""
    slo_met: NDArray[np.bool_] = np.empty(0, np.bool_)
    """Whether TTFT and TPOT kept the request's objective, ``[num_ended]``; False for those that failed."""
    num_output_tokens: NDArray[np.int64] = np.empty(0, np.int64)
    """Tokens of the answer, ``[num_ended]``."""
