"""The Rust routers' cache-aware routing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import (
    Array,
    Candidates,
    Heuristic,
    Kind,
    first_of_equals,
    is_uneven,
    most,
    share,
    within,
)
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT


class CacheAware(Heuristic):
    """``cache_aware`` of vllm-project/router (16917f4; 0.1.17) and sglang-router 0.3.2.

    smg began with it, too, and went on: ``SmgCacheAware``. vllm-router 0.1.17 has every instance tokenise
    each prompt, and goes by load alone where they do not; sglang-router compares characters.

    Rule, r being ``num_in_flight``: if max r - min r > 64 and max r > 1.5 * min r, argmin r. Else, if the
    longest match (``frac_prefix_hit``) exceeds 0.3, its instance. Else argmin r (older sglang-routers took
    the smallest cache tree). Of equal r the first, as there, so ties depend on the rows' order; of equal
    matches a random one (there whichever the tree names). Constants are the command line's; the library's
    are 0.5, 32 and 1.1. Tune ``imbalance`` to the load: with fewer than 64 requests in flight the first
    branch is out of reach.

    Approximations: matches are of tokens, by this router's index (of the router's own tree there); spread and
    matches are those of the valid instances (there an unhealthy worker counts in the spread, and its match
    sends the request to the first healthy one).

    Args:
        cache_threshold: match beyond which the cache decides.
        imbalance: spread of r beyond which load may decide.
        imbalance_ratio: max r over min r beyond which load may decide.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(
        self, cache_threshold: float = 0.3, imbalance: float = 64.0, imbalance_ratio: float = 1.5
    ) -> None:
        self.cache_threshold = share("cache_threshold", cache_threshold)
        self.imbalance = within("imbalance", imbalance, 0.0)
        self.imbalance_ratio = within("imbalance_ratio", imbalance_ratio, 1.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests in flight or by match."""
        num_in_flight = candidates.column(NUM_IN_FLIGHT)
        imbalanced = is_uneven(num_in_flight, self.imbalance, self.imbalance_ratio)
        match = candidates.column(FRAC_PREFIX_HIT)
        missed = ~imbalanced & (most(match) <= self.cache_threshold)
        self.note("imbalanced", imbalanced)
        self.note("missed", missed)
        return np.where(imbalanced | missed, first_of_equals(num_in_flight), -match)
