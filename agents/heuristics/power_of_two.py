"""Power of two choices."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind
from envs.observation import NUM_IN_FLIGHT


class PowerOfTwo(Heuristic):
    """The better of two: ``power_of_two`` of vllm-project/router 0.1.17, smg 1.13.0 and Ray's default.

    Rule: draw two different instances at random, take the one with fewer requests in flight
    (``num_in_flight``); of equals the first drawn, hence either with one half. Instead of the pair the
    instance itself is drawn, from the distribution that the pairs give it. vllm-router adds a load polled
    from the engine where its monitor has one; here only the router's own count is used.
    """

    kind: ClassVar[Kind] = "load"

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests in flight."""
        return candidates.column(NUM_IN_FLIGHT)

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Share of the pairs that each one wins."""
        return better_of_two(costs, costs == costs)


def better_of_two(loads: Array, among: NDArray[np.bool_]) -> Array:
    """Share of the ordered pairs of different ones ``among`` the candidates that each wins by its load.

    Of equals the first drawn wins; of a single one there is no pair, it wins. ``[num_valid]`` each.
    """
    num, others = np.count_nonzero(among), loads[:, None]
    num_lower = ((loads < others) & among).sum(axis=1)
    num_lower_or_equal = ((loads <= others) & among).sum(axis=1)
    # Twice the dearer ones, once the equals but itself.
    wins = (2.0 * num - 1.0 - num_lower_or_equal - num_lower) / np.maximum(num * (num - 1), 1)
    return np.where(among, np.where(num == 1, 1.0, wins), 0.0)
