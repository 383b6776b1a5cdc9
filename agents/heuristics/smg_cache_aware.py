"""smg's own cache-aware routing."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np

from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.heuristic import Array, Candidates, Memory, least, most, within
from envs.observation import FRAC_KV_CACHE_USAGE


class SmgCacheAware(CacheAware):
    """``cache_aware`` of lightseekorg/smg at 73da68c (1.13.0): ``CacheAware`` and what smg added to it.

    Rule: that of ``CacheAware``, but of equal r the instance that was sent the fewest requests, of these the
    first, so ties depend on the rows' order; and load decides also where the KV cache of the fullest instance
    (``frac_kv_cache_usage``) exceeds a ceiling, or the emptiest one's by more than a spread. Both are 1,
    which is never, by default.

    Args:
        cache_threshold: match beyond which the cache decides.
        imbalance: spread of r beyond which load may decide.
        imbalance_ratio: max r over min r beyond which load may decide.
        kv_spread: spread of the KV usage beyond which load decides.
        kv_ceiling: KV usage beyond which load decides.
    """

    memory: ClassVar[Memory] = "own"

    def __init__(
        self,
        cache_threshold: float = 0.3,
        imbalance: float = 64.0,
        imbalance_ratio: float = 1.5,
        kv_spread: float = 1.0,
        kv_ceiling: float = 1.0,
    ) -> None:
        super().__init__(cache_threshold, imbalance, imbalance_ratio)
        self.kv_spread = within("kv_spread", kv_spread, 0.0, 1.0)
        self.kv_ceiling = within("kv_ceiling", kv_ceiling, 0.0, 1.0)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: nothing was sent."""
        super().reset(rng)
        self._num_sent: Counter[int] = Counter()  # instance -> requests

    def chose(self, candidates: Candidates, place: int) -> None:
        """Count the request."""
        self._num_sent[int(candidates.indices[place])] += 1

    def is_imbalanced(self, candidates: Candidates, num_in_flight: Array) -> Any:
        """Whether load decides, by requests or by the KV cache."""
        usage = candidates.column(FRAC_KV_CACHE_USAGE)
        full = (most(usage) > self.kv_ceiling) | (most(usage) - least(usage) > self.kv_spread)
        return super().is_imbalanced(candidates, num_in_flight) | full

    def ranks(self, candidates: Candidates, num_in_flight: Array) -> Array:
        """Rank by requests in flight, then by requests sent, then by place."""
        num_sent = np.array([self._num_sent[index] for index in candidates.indices.tolist()])
        return np.lexsort((num_sent, num_in_flight)).argsort().astype(np.float64)
