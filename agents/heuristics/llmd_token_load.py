"""llm-d's token load."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, within
from envs.observation import NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS


class LlmdTokenLoad(Heuristic):
    """``token-load-scorer`` of llm-d/llm-d-router at ebab687 (2026-08-22), alone.

    Rule: argmax of 1 - min(x, T) / T, random among ties; x = tokens in flight there
    (``num_in_flight_uncached_tokens``: those of requests still without a first token) + this request's
    uncached tokens there (``num_uncached_tokens``); T = 4,194,304. As only order counts, min(x, T) is the
    cost.

    Args:
        max_tokens: T, beyond which instances count as equally loaded.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, max_tokens: float = 4_194_304) -> None:
        self.max_tokens = within("max_tokens", max_tokens, 1.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by tokens to be computed before this request's first token."""
        column = candidates.column
        return np.minimum(
            column(NUM_IN_FLIGHT_UNCACHED_TOKENS) + column(NUM_UNCACHED_TOKENS), self.max_tokens
        )
