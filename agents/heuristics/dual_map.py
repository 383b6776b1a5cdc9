"""DualMap: two places for a prefix, the one that holds it unless it is behind."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, most, whole, within
from agents.heuristics.power_of_two import better_of_two
from envs.observation import NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_PROMPT_TOKENS, NUM_UNCACHED_TOKENS


class DualMap(Heuristic):
    """DualMap (arXiv 2602.06502), after its port to Dynamo (ai-dynamo/dynamo#15450).

    Rule: two hashes of the prompt's prefix give two candidates. The one that holds more of the prompt, unless
    the tokens to be computed there (``num_in_flight_uncached_tokens`` + this request's
    ``num_uncached_tokens``) exceed a budget, what an instance works off within the SLO on TTFT; then, and
    where both hold as much, the one with fewer tokens in flight.

    Approximation: the prefix is not observed, only which instance holds how much of it. The pair is therefore
    drawn, not hashed: from those that match longest, then from those that match next (of a match below
    ``hash_prefix_tokens`` nothing, as there such a prefix is none). An instance gets a prefix only by having
    been chosen for it, so that the two that a new prefix is spread over remain its pair for as long as they
    hold it. The deeper hash that the port takes of hot prefixes follows: requests that share but a common
    beginning are matched alike by all who hold it, and draw their own pair from these. Of equal loads either
    (there the lower number). Migration of queued requests within the pair is left out: a router places once.

    Args:
        hash_prefix_tokens: match from which an instance holds the prefix; 4 blocks of 16 there.
        max_pending_tokens: tokens to be computed beyond which the holder is given up.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, hash_prefix_tokens: int = 64, max_pending_tokens: float = 65_536) -> None:
        self.hash_prefix_tokens = whole("hash_prefix_tokens", hash_prefix_tokens, 1)
        self.max_pending_tokens = within("max_pending_tokens", max_pending_tokens, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by tokens in flight, those that cannot be in the pair behind."""
        pending = candidates.column(NUM_IN_FLIGHT_UNCACHED_TOKENS)
        first, second, _, overloaded = self._pair(candidates, pending)
        self.note("overloaded", overloaded)
        return demote(pending, ~(first | (second & overloaded)))

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Where one holds most, it or the better one of the pair; else the better one of two of them."""
        pending = candidates.column(NUM_IN_FLIGHT_UNCACHED_TOKENS)
        first, second, stays, overloaded = self._pair(candidates, pending)
        own = (pending * first).sum()
        better = second * ((pending < own) + 0.5 * (pending == own)) / np.maximum(np.count_nonzero(second), 1)
        moved = np.where(first, 1.0 - better.sum(), better)
        return np.where(stays, first * 1.0, np.where(overloaded, moved, better_of_two(pending, first)))

    def _pair(self, candidates: Candidates, pending: Array) -> tuple[Any, Any, Any, Any]:
        """Who matches longest, who next; whether the one that does stays chosen, or is over its budget."""
        num_uncached = candidates.column(NUM_UNCACHED_TOKENS)
        num_hits = candidates.request[NUM_PROMPT_TOKENS] - num_uncached
        match = np.where(num_hits >= self.hash_prefix_tokens, num_hits, 0.0)
        first = match == most(match)
        rest = np.where(first, -1.0, match)
        second = ~first & (rest == most(rest))
        alone = np.count_nonzero(first) == 1
        over = ((pending + num_uncached) * first).sum() > self.max_pending_tokens
        return first, second, alone & ~over, alone & over
