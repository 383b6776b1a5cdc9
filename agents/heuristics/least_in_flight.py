"""Least requests in flight."""

from __future__ import annotations

from typing import ClassVar

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind
from envs.observation import NUM_IN_FLIGHT


class LeastInFlight(Heuristic):
    """Fewest requests in flight: ``least-request`` of vllm-project/aibrix at e3e10f9 (2026-08-22).

    Rule: argmin of ``num_in_flight``, the router's own count; random among ties, as there. Dynamo's
    ``least-loaded`` and LiteLLM's ``least-busy`` are the same rule.
    """

    kind: ClassVar[Kind] = "load"

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests in flight."""
        return candidates.column(NUM_IN_FLIGHT)
