"""What happened between two routing decisions, in plain numbers: all that a reward term may look at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NOTHING: NDArray[np.float64] = np.empty(0)


class Interval(NamedTuple):
    """The time from one decision to the next (or, after the last one, until nothing is in flight).

    The integrals are exact: a request counts from the instant it arrived to that of its event, also where
    those fall within the interval. The arrays hold one entry for each request whose event fell in it.
    """

    duration_s: float = 0.0
    waiting_request_s: float = 0.0
    """Integral of the number of requests without a first token. Sums to the sum of all TTFT."""
    in_flight_request_s: float = 0.0
    """Integral of the number of requests not yet completed. Sums to the sum of all E2E latencies."""
    ttft_s: NDArray[np.float64] = _NOTHING
    """TTFT of the requests that completed, ``[num_completed]``."""
    tpot_s: NDArray[np.float64] = _NOTHING
    """Mean time per output token after the first, ``[num_completed]``."""
    e2e_s: NDArray[np.float64] = _NOTHING
    """End-to-end latency, ``[num_completed]``."""
    slo_met: NDArray[np.bool_] = np.empty(0, np.bool_)
    """Whether TTFT and TPOT kept the request's objective, ``[num_completed]``."""
    num_output_tokens: NDArray[np.int64] = np.empty(0, np.int64)
    """Tokens of the answer, ``[num_completed]``."""
