"""DualMap: two places for a prefix, the one that holds it unless it is behind."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, share, within
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS


class DualMap(Heuristic):
    """DualMap (arXiv 2602.06502), after its port to Dynamo (ai-dynamo/dynamo#15450).

    Rule: two hashes of the prompt's prefix give a pair of candidates. The one that holds more of the prompt
    (``frac_prefix_hit``), unless the tokens to be computed there (``num_in_flight_uncached_tokens`` + this
    request's ``num_uncached_tokens``) exceed a budget, what an instance works off within the SLO on TTFT;
    then, and where both hold as much, the one with fewer tokens in flight, of equals either (there the lower
    number).

    Approximation: the prefix is not observed, only which instance holds how much of it. The pair is therefore
    drawn, not hashed: of the instances that hold at least half of the prompt; where one alone does, it and
    any other; where none does (``missed``), any two. An instance holds a prefix because it was chosen for it,
    so that the two places of a prefix, once drawn, remain its pair for as long as they hold it. What many
    prompts have in common is by this not enough to be of one pair; there hot prefixes are hashed deeper, to
    the same end. Queued requests do not migrate within the pair: a router places once.

    Args:
        min_match: share of the prompt from which an instance is one of its places.
        max_pending_tokens: tokens to be computed beyond which a holder is given up.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, min_match: float = 0.5, max_pending_tokens: float = 65_536) -> None:
        self.min_match = share("min_match", min_match)
        self.max_pending_tokens = within("max_pending_tokens", max_pending_tokens, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by tokens in flight, those that are no place of the prompt behind."""
        away = candidates.column(FRAC_PREFIX_HIT) < self.min_match
        self.note("missed", ~(~away).any())
        return demote(candidates.column(NUM_IN_FLIGHT_UNCACHED_TOKENS), away)

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Share of the pairs that may be drawn that each one wins."""
        match, pending = candidates.column(FRAC_PREFIX_HIT), candidates.column(NUM_IN_FLIGHT_UNCACHED_TOKENS)
        in_budget = pending + candidates.column(NUM_UNCACHED_TOKENS) <= self.max_pending_tokens
        holds = match >= self.min_match
        num_holders = np.count_nonzero(holds)
        both, either = holds[:, None] & holds, holds[:, None] | holds
        is_pair = both | (either & (num_holders == 1)) | (num_holders == 0)
        is_pair = is_pair & (candidates.indices[:, None] != candidates.indices)
        # Row against column: more held decides within the budget, else fewer in flight, else a coin.
        more, less = match[:, None] > match, match[:, None] < match
        by_cache = (more & in_budget[:, None]) | (less & in_budget)
        by_load = (pending[:, None] < pending) + 0.5 * (pending[:, None] == pending)
        wins = (is_pair * np.where(by_cache, more * 1.0, by_load)).sum(axis=1)
        return np.where(candidates.indices.size == 1, 1.0, wins / np.maximum(wins.sum(), 1.0))
