"""In time at the least cost: SLO slack in the manner of JITServe."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, within
from envs.observation import NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS, PREFILL_TOKENS_PER_S


class SloSlack(Heuristic):
    """SLO slack in the manner of JITServe (arXiv 2504.20068): most goodput for the time that it takes.

    Rule: of the instances that give the first token in time, argmin of the time that the request itself takes
    there - slack_weight * slack; where none does (``missed``), the most slack. Random among ties. Time that
    it takes itself = ``num_uncached_tokens`` / ``prefill_tokens_per_s``; slack = ``slo_ttft_s`` - estimated
    TTFT; estimate = estimate_factor * (``num_in_flight_uncached_tokens`` + ``num_uncached_tokens``) /
    ``prefill_tokens_per_s``.

    It is not JITServe: that orders the queues within instances by goodput per generation time, with a bound
    on output lengths that it learns, and places a request by copies in several queues. A router only places,
    and its observation has neither the request's own SLO nor its length; kept are the idea that what is in
    time need not be early, and the price by what a request takes. 2 s are JITServe's SLO on the first token.

    Args:
        slo_ttft_s: accepted time to first token, the same for all requests.
        slack_weight: seconds of the request's own time that a second of slack is worth; a choice of ours.
        estimate_factor: by which the estimate is stretched, for safety.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(
        self, slo_ttft_s: float = 2.0, slack_weight: float = 0.1, estimate_factor: float = 1.0
    ) -> None:
        self.slo_ttft_s = within("slo_ttft_s", slo_ttft_s, 0.0)
        self.slack_weight = within("slack_weight", slack_weight, 0.0)
        self.estimate_factor = within("estimate_factor", estimate_factor, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by own time and slack, seconds; those that are late behind, by lateness."""
        tokens_per_s = np.maximum(candidates.column(PREFILL_TOKENS_PER_S), 1.0)
        own_s = candidates.column(NUM_UNCACHED_TOKENS) / tokens_per_s
        queued_s = candidates.column(NUM_IN_FLIGHT_UNCACHED_TOKENS) / tokens_per_s
        slack_s = self.slo_ttft_s - self.estimate_factor * (queued_s + own_s)
        late = slack_s < 0.0
        self.note("missed", ~(~late).any())
        return demote(np.where(late, -slack_s, own_s - self.slack_weight * slack_s), late)
