"""llm-d's prefix affinity with a guard on the first token's delay, then token load."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, least, share, within
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT_UNCACHED_TOKENS

NO_TOKENS = 1e30
"""Of nobody: more than any instance has in flight, so that where there is no other none is behind it."""


class LlmdAffinity(Heuristic):
    """The documented default of llm-d/llm-d-router since 2026-08 (at ebab687), for prefill-bound loads.

    Rule: ``prefix-cache-affinity-filter``: keep the instances that match at least 0.80 of the prompt
    (``frac_prefix_hit``; none: keep all), unless the best of them has an estimated TTFT more than 18 s
    behind the best other; estimate = tokens in flight (``num_in_flight_uncached_tokens``) / 15,928 tokens/s.
    Of the kept, the least token load (``LlmdTokenLoad``), random among ties. The filter's exploration
    (probability 0 by default) is left out. llm-d's blog used 20,480 tokens/s and 14 s.

    Args:
        affinity_threshold: match from which an instance is kept.
        peak_prefill_tokens_per_s: throughput of the TTFT estimate; calibrate it to the hardware.
        max_ttft_penalty_s: delay beyond which affinity is given up; 0: never.
        max_tokens: see ``LlmdTokenLoad``.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(
        self,
        affinity_threshold: float = 0.80,
        peak_prefill_tokens_per_s: float = 15_928,
        max_ttft_penalty_s: float = 18.0,
        max_tokens: float = 4_194_304,
    ) -> None:
        self.affinity_threshold = share("affinity_threshold", affinity_threshold)
        self.peak_prefill_tokens_per_s = within("peak_prefill_tokens_per_s", peak_prefill_tokens_per_s, 1e-6)
        self.max_ttft_penalty_s = within("max_ttft_penalty_s", max_ttft_penalty_s, 0.0)
        self.token_load = LlmdTokenLoad(max_tokens)

    def costs(self, candidates: Candidates) -> Array:
        """Price by token load, those filtered out behind."""
        costs = self.token_load.costs(candidates)
        other = candidates.column(FRAC_PREFIX_HIT) < self.affinity_threshold
        missed = ~(~other).any()
        self.note("missed", missed)
        if self.max_ttft_penalty_s <= 0.0:
            return np.where(missed, costs, demote(costs, other))
        num_tokens = candidates.column(NUM_IN_FLIGHT_UNCACHED_TOKENS)
        behind = least(np.where(other, NO_TOKENS, num_tokens)) - least(np.where(other, num_tokens, NO_TOKENS))
        overloaded = ~missed & (behind / self.peak_prefill_tokens_per_s > self.max_ttft_penalty_s)
        self.note("overloaded", overloaded)
        return np.where(missed | overloaded, costs, demote(costs, other))
