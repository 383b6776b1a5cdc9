"""What happens between two routing decisions, as a reward is computed from it."""

from __future__ import annotations

from math import isnan

import numpy as np

from envs.cluster import Completion, Events
from reward.interval import Interval


def interval_of(
    events: Events,
    retried: list[Completion],
    num_waiting: int,
    num_in_flight: int,
    begins_at_s: float,
    ends_at_s: float,
    late_s: float,
) -> Interval:
    """What happened in an interval that began with so many requests waiting and in flight.

    Args:
        events: First tokens and completions.
        retried: Failures of requests that are sent again. Each has waited all along: its first token, if it
            had one, was none.
        num_waiting: Requests without a first token when it began.
        num_in_flight: Requests without an outcome then.
        begins_at_s: Instant of the decision before.
        ends_at_s: Instant of the next one, or of the end.
        late_s: How long the request to be decided then has been due.
    """
    duration_s = ends_at_s - begins_at_s
    first_tokens, completions = events
    waiting_request_s = (
        late_s + num_waiting * duration_s - _total_s(ends_at_s, [token.at_s for token in first_tokens])
    )
    for completion in retried:
        if not isnan(completion.first_token_at_s):
            waiting_request_s += ends_at_s - completion.first_token_at_s
    if not completions:
        return Interval(duration_s, waiting_request_s, late_s + num_in_flight * duration_s)
    served = [completion for completion in completions if not completion.failure]
    return Interval(
        duration_s=duration_s,
        waiting_request_s=waiting_request_s,
        in_flight_request_s=late_s
        + num_in_flight * duration_s
        - _total_s(ends_at_s, [completion.finished_at_s for completion in served]),
        ttft_s=np.array([completion.ttft_s for completion in served]),
        tpot_s=np.array([completion.tpot_s for completion in served]),
        e2e_s=np.array([completion.e2e_s for completion in served]),
        slo_met=np.array([completion.slo_met for completion in completions], np.bool_),
        num_output_tokens=np.array([completion.num_output_tokens for completion in completions], np.int64),
    )


def _total_s(now_s: float, instants_s: list[float]) -> float:
    """Total time since these instants; not by ``sum``, which from Python 3.12 on adds with a correction."""
    total_s = 0.0
    for at_s in instants_s:
        total_s += now_s - at_s
    return total_s
