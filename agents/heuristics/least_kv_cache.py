"""Least KV cache in use."""

from __future__ import annotations

from typing import ClassVar

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, first_of_equals
from envs.observation import FRAC_KV_CACHE_USAGE


class LeastKVCache(Heuristic):
    """Emptiest KV cache: ``least-kv-cache`` of vllm-project/aibrix at e3e10f9 (2026-08-22).

    Rule: argmin of GPU plus CPU cache usage; of equals the last, as there, so ties depend on the rows'
    order. ``frac_kv_cache_usage`` stands for the GPU share; a CPU share is not observed and counts as 0.
    """

    kind: ClassVar[Kind] = "load"

    def costs(self, candidates: Candidates) -> Array:
        """Price by cache usage."""
        usage = candidates.column(FRAC_KV_CACHE_USAGE)
        return first_of_equals(usage[::-1])[::-1]
