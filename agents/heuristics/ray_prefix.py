"""Ray's prefix cache affinity."""

from __future__ import annotations

from collections import defaultdict
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
    share,
    within,
)
from agents.heuristics.power_of_two import better_of_two
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT, NUM_UNCACHED_TOKENS


class RayPrefix(Heuristic):
    """``PrefixCacheAffinityRouter`` of ray-project/ray at 06c16f2 (2.60.0).

    Rule, r being ``num_in_flight``: if max r - min r exceeds a threshold (never, by default), the better of
    two drawn at random. Else, if the longest match (``frac_prefix_hit``) is below 0.1, the instances that
    were sent the fewest new tokens; else those that match longest. Of several argmin r, random among ties.

    Approximations: matches are of tokens, by this router's index (there of characters, and nothing is evicted
    by default); new tokens are ``num_uncached_tokens`` of where a request went, added up (there the
    characters that an instance has in the tree, which are the same but for what is evicted here).

    Args:
        imbalance: spread of r beyond which the cache is not looked at; null: never.
        match_threshold: match below which the smallest share of the tree decides.
    """

    kind: ClassVar[Kind] = "prefix"
    memory: ClassVar[Memory] = "own"

    def __init__(self, imbalance: float | None = None, match_threshold: float = 0.1) -> None:
        self.imbalance = None if imbalance is None else within("imbalance", imbalance, 0.0)
        self.match_threshold = share("match_threshold", match_threshold)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: the tree is empty."""
        super().reset(rng)
        self._num_new_tokens: defaultdict[int, float] = defaultdict(
            float
        )  # instance -> tokens that were new to it

    def chose(self, candidates: Candidates, place: int) -> None:
        """Add what was new there."""
        num_new = float(candidates.column(NUM_UNCACHED_TOKENS)[place])
        self._num_new_tokens[int(candidates.indices[place])] += num_new

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests in flight, those that the tree does not name behind."""
        num_in_flight, match = candidates.column(NUM_IN_FLIGHT), candidates.column(FRAC_PREFIX_HIT)
        if self._is_imbalanced(num_in_flight):
            self._counts["imbalanced"] += 1
            return num_in_flight
        if most(match) < self.match_threshold:
            self._counts["missed"] += 1
            sizes = np.array(
                [self._num_new_tokens[index] for index in candidates.indices.tolist()], np.float64
            )
            return demote(num_in_flight, sizes > least(sizes))
        return demote(num_in_flight, match < most(match))

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Uniform over the lowest; where the load is uneven, the share of the pairs that each wins."""
        if self._is_imbalanced(candidates.column(NUM_IN_FLIGHT)):
            return better_of_two(costs, costs == costs)
        return super().chances(costs, candidates)

    def _is_imbalanced(self, num_in_flight: Array) -> bool:
        if self.imbalance is None:
            return False
        return bool(most(num_in_flight) - least(num_in_flight) > self.imbalance)
