"""llm-d's weighted scorers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, least, most, within
from envs.observation import FRAC_KV_CACHE_USAGE, FRAC_PREFIX_HIT, NUM_WAITING


class LlmdWeighted(Heuristic):
    """The chart's default scorers of llm-d/llm-d-router at ebab687 (2026-08-22).

    Rule: argmax of 2 * queue + 2 * kv + 3 * prefix, random among ties. queue = (max waiting - waiting) /
    (max - min), 1 where all are equal; kv = 1 - ``frac_kv_cache_usage``; prefix = ``frac_prefix_hit`` (of
    blocks of at least 64 tokens there).

    Args:
        queue_weight: weight of the queue's score.
        kv_weight: weight of the KV cache's score.
        prefix_weight: weight of the prefix match.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, queue_weight: float = 2.0, kv_weight: float = 2.0, prefix_weight: float = 3.0) -> None:
        self.queue_weight = within("queue_weight", queue_weight, 0.0)
        self.kv_weight = within("kv_weight", kv_weight, 0.0)
        self.prefix_weight = within("prefix_weight", prefix_weight, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by what is missing to the full score."""
        column = candidates.column
        num_waiting = column(NUM_WAITING)
        fewest = least(num_waiting)
        spread = np.maximum(most(num_waiting) - fewest, 1.0)  # counts are whole: below 1 all are equal
        costs: Array = (
            self.queue_weight / spread * (num_waiting - fewest)
            + self.kv_weight * column(FRAC_KV_CACHE_USAGE)
            - self.prefix_weight * column(FRAC_PREFIX_HIT)
        )
        return costs
