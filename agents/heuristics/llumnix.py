"""Llumnix: the instance with the most free memory per request."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, first_of_equals
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    NUM_IN_FLIGHT_PREFILL_TOKENS,
    NUM_KV_CACHE_TOKENS,
    NUM_RUNNING,
    NUM_SENT_SINCE_SCRAPE,
    NUM_WAITING,
)

IDLE = 1e12
"""Freeness of an instance without requests, tokens: more than any other's (there infinite)."""


class Llumnix(Heuristic):
    """Dispatch of Llumnix (OSDI 2024), ``remaining_steps`` of AlibabaPAI/llumnix.

    Rule: argmax of freeness (M - V) / B: memory less what is in use or asked for by waiting requests, over
    requests, all at the instance; one without requests before all others. Of equals the first (there by
    name), so ties depend on the rows' order.

    Columns: M ``num_kv_cache_tokens``; V its share in use, ``frac_kv_cache_usage``, and the prompts without a
    first token, ``num_in_flight_prefill_tokens`` (there the blocks of the waiting requests, which a router
    does not see; what is prefilled in part counts twice); B ``num_waiting + num_running``, as of the scrape,
    and ``num_sent_since_scrape``. Migration, priorities and draining are left out: a router places a request
    once.
    """

    kind: ClassVar[Kind] = "load"

    def costs(self, candidates: Candidates) -> Array:
        """Price by freeness, ranked."""
        column = candidates.column
        used = column(NUM_KV_CACHE_TOKENS) * column(FRAC_KV_CACHE_USAGE) + column(
            NUM_IN_FLIGHT_PREFILL_TOKENS
        )
        num_requests = column(NUM_WAITING) + column(NUM_RUNNING) + column(NUM_SENT_SINCE_SCRAPE)
        freeness = (column(NUM_KV_CACHE_TOKENS) - used) / np.maximum(num_requests, 1.0)
        return first_of_equals(-np.where(num_requests > 0.0, freeness, IDLE))
