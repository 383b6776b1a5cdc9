"""LMetric: tokens to compute times requests held."""

from __future__ import annotations

from typing import ClassVar

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind
from envs.observation import NUM_IN_FLIGHT, NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS


class LMetric(Heuristic):
    """LMetric (arXiv 2603.15202), as its authors' blitz-serving/blitz-router has it (``lmetric-q``, 06a908f).

    Rule: argmin P * (BS + 1), random among ties. P are the tokens that the instance would have to compute up
    to this request's first token: those queued there (``num_in_flight_uncached_tokens``) and its own
    (``num_uncached_tokens``). BS are the requests that it holds, waiting or running (``num_in_flight``).
    There are no constants.
    """

    kind: ClassVar[Kind] = "prefix"

    def costs(self, candidates: Candidates) -> Array:
        """Price by the product."""
        column = candidates.column
        num_tokens = column(NUM_IN_FLIGHT_UNCACHED_TOKENS) + column(NUM_UNCACHED_TOKENS)
        return num_tokens * (column(NUM_IN_FLIGHT) + 1.0)
