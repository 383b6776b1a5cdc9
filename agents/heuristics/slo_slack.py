"""Just in time: the instance that meets the SLO with the least to spare."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, within
from envs.observation import NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS, PREFILL_TOKENS_PER_S


class SloSlack(Heuristic):
    """SLO slack in the manner of JITServe (arXiv 2504.20068): no request earlier than its SLO needs.

    Rule: slack = ``slo_ttft_s`` - estimated TTFT. Of the instances with slack of at least 0 the one with the
    least, which leaves room elsewhere for what is tighter; where none has (``missed``), the one with the
    most. Random among ties. Estimate = ``estimate_factor`` * (``num_in_flight_uncached_tokens`` +
    ``num_uncached_tokens``) / ``prefill_tokens_per_s``.

    What is left out: JITServe orders the queues within instances, by a bound on output lengths that it
    learns, and gives a request to several of them in copy; a router only places, and its observation has
    neither the request's own SLO nor its length. 2 s are JITServe's SLO on the first token. llm-d's latency
    scorer packs in this way by default (``least`` headroom).

    Args:
        slo_ttft_s: accepted time to first token, the same for all requests.
        estimate_factor: by which the estimate is stretched, for safety.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, slo_ttft_s: float = 2.0, estimate_factor: float = 1.0) -> None:
        self.slo_ttft_s = within("slo_ttft_s", slo_ttft_s, 0.0)
        self.estimate_factor = within("estimate_factor", estimate_factor, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by slack, seconds; those that are late behind, by lateness."""
        column = candidates.column
        num_tokens = column(NUM_IN_FLIGHT_UNCACHED_TOKENS) + column(NUM_UNCACHED_TOKENS)
        ttft_s = self.estimate_factor * num_tokens / np.maximum(column(PREFILL_TOKENS_PER_S), 1.0)
        slack_s = self.slo_ttft_s - ttft_s
        late = slack_s < 0.0
        self.note("missed", ~(~late).any())
        return demote(np.where(late, -slack_s, slack_s), late)
