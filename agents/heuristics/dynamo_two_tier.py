"""Dynamo's two-tier selection: load if it is uneven, else the cache."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import (
    Array,
    Candidates,
    Heuristic,
    Kind,
    demote,
    is_uneven,
    most,
    share,
    within,
)
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT


class DynamoTwoTier(Heuristic):
    """``dynamo-two-tier-cost-fn`` of ai-dynamo/dynamo (two_tier_cost_fn.rs at 0c3850c).

    Rule, r being ``num_in_flight``: if max r - min r > 32 and max r > 1.1 * min r, argmin r. Else, if the
    longest match (``frac_prefix_hit``) exceeds 0.5, argmin r of those that match as long. Else argmin r.
    Random among ties: there the first of rows whose order is left open.

    Approximation: the match is a share of the prompt's tokens; there of its blocks, an unfinished last one
    counting as one that cannot match. Blocks in host memory, weighed 0.75 in later versions, are left out.

    Args:
        cache_threshold: match beyond which the cache decides.
        imbalance: spread of r beyond which load may decide.
        imbalance_ratio: max r over min r beyond which load may decide.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(
        self, cache_threshold: float = 0.5, imbalance: float = 32.0, imbalance_ratio: float = 1.1
    ) -> None:
        self.cache_threshold = share("cache_threshold", cache_threshold)
        self.imbalance = within("imbalance", imbalance, 0.0)
        self.imbalance_ratio = within("imbalance_ratio", imbalance_ratio, 1.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests in flight, those that match less behind where the cache decides."""
        num_in_flight = candidates.column(NUM_IN_FLIGHT)
        imbalanced = is_uneven(num_in_flight, self.imbalance, self.imbalance_ratio)
        match = candidates.column(FRAC_PREFIX_HIT)
        longest = most(match)
        missed = ~imbalanced & (longest <= self.cache_threshold)
        self.note("imbalanced", imbalanced)
        self.note("missed", missed)
        return np.where(imbalanced | missed, num_in_flight, demote(num_in_flight, match < longest))
