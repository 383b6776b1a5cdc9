"""aibrix's load balancing by drain rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import (
    Array,
    Candidates,
    Heuristic,
    Kind,
    Memory,
    demote,
    least,
    most,
    within,
)
from agents.heuristics.window import Window
from envs.feedback import Feedback
from envs.observation import FRAC_KV_CACHE_USAGE, NUM_IN_FLIGHT

LEAST_HISTORY_S = 10.0
"""Before so much is known aibrix makes no rate."""


class AibrixLoadBalance(Heuristic):
    """``load-balance`` of vllm-project/aibrix (#2365, load_balance.go at 8c6b57b, 2026), with its gate.

    Rule, r being ``num_in_flight``: argmin r / drain rate, of equals the least ``frac_kv_cache_usage``,
    random among those (there the last). The drain rate is that of the requests ended there over the last
    minute, or since the first arrival if that is later; 1 per second where nothing ended or less than 10 s
    are known. The gate before every rule of aibrix: if max r - min r >= 8 and, of three or more instances,
    max r > 2 * (mean of the others' r + 1), only those of min r (``imbalanced``).

    Ends are those of this router's own requests, as ``observe`` tells them; there likewise the gateway's, but
    by a clock and in snapshots 5 s apart.

    Args:
        window_s: over which the rate is taken.
        imbalance: spread of r from which only the least loaded are looked at.
        imbalance_ratio: max r over the others' mean, plus one, beyond which so.
    """

    kind: ClassVar[Kind] = "load"
    memory: ClassVar[Memory] = "own"

    def __init__(self, window_s: float = 60.0, imbalance: float = 8.0, imbalance_ratio: float = 2.0) -> None:
        self.window_s = within("window_s", window_s, LEAST_HISTORY_S)
        self.imbalance = within("imbalance", imbalance, 0.0)
        self.imbalance_ratio = within("imbalance_ratio", imbalance_ratio, 0.0)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: no rate is known."""
        super().reset(rng)
        self._ended = Window(self.window_s)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Count the requests that ended."""
        self._ended.advance(completions)
        for feedback in completions:
            self._ended.add(feedback.instance, 1.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by the time to drain, ranked; where load is uneven, others than the least loaded behind."""
        num_in_flight = candidates.column(NUM_IN_FLIGHT)
        known_s = min(self._ended.now_s - self._ended.began_at_s, self.window_s)
        num_ended = np.array([self._ended.counts[index] for index in candidates.indices.tolist()], np.float64)
        is_known = (num_ended > 0.0) & (known_s >= LEAST_HISTORY_S)
        rates_per_s = np.where(is_known, num_ended / max(known_s, LEAST_HISTORY_S), 1.0)
        drain_s = num_in_flight / rates_per_s
        usage = candidates.column(FRAC_KV_CACHE_USAGE)
        _, ranks = np.unique(np.stack([drain_s, usage], axis=1), axis=0, return_inverse=True)
        highest, lowest = most(num_in_flight), least(num_in_flight)
        others = (num_in_flight.sum() - highest) / max(num_in_flight.size - 1, 1)
        uneven = num_in_flight.size == 2 or highest > self.imbalance_ratio * (others + 1.0)
        imbalanced = np.bool_(highest - lowest >= self.imbalance and uneven)
        self.note("imbalanced", imbalanced)
        costs = ranks.reshape(-1).astype(np.float64)
        return demote(costs, imbalanced & (num_in_flight > lowest))
