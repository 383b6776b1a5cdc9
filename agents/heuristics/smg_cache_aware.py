"""smg's own cache-aware routing."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, least, most, share, within
from agents.heuristics.smg_least_load import SmgLeastLoad
from envs.observation import FRAC_KV_CACHE_USAGE, FRAC_PREFIX_HIT, NUM_IN_FLIGHT, NUM_WAITING

SWING, LEAST_SWING = 2.0, 4.0
"""How far the count of requests in flight swings by itself: standard deviations, requests at the least."""


class SmgCacheAware(Heuristic):
    """``cache_aware`` of smg 1.13.0, which since 1.10 compares each instance with the fleet's mean.

    Rule, r being ``num_in_flight``: instances with 8 or more waiting requests, or a KV usage of 0.8 or more,
    are left out while there are others. If the longest match (``frac_prefix_hit``) exceeds 0.3, the least
    expected wait of those that match as long and are not hot; where all of them are hot (``spilled``), and
    where the match is shorter (``missed``), the least of all that are not hot, or of all. Hot is r > 1.5 *
    mean r and r > mean r + margin; margin = min(64, max(4, 2 * sqrt(mean r))). The expected wait is that of
    ``SmgLeastLoad`` with its defaults; random among ties. If the KV usage of the fullest instance exceeds a
    ceiling, or the emptiest one's by more than a spread (both 1, which is never, by default), the match is
    not looked at (``pressed``).

    Approximation: matches are of tokens, by this router's index; over HTTP of characters there.

    Args:
        cache_threshold: match beyond which the cache decides.
        spill_requests: requests over the mean up to which none is hot.
        spill_ratio: r over the mean up to which none is hot.
        kv_spread: spread of the KV usage beyond which load decides.
        kv_ceiling: KV usage beyond which load decides.
        overload_waiting: waiting requests from which an instance is left out.
        overload_usage: KV usage from which an instance is left out.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(
        self,
        cache_threshold: float = 0.3,
        spill_requests: float = 64.0,
        spill_ratio: float = 1.5,
        kv_spread: float = 1.0,
        kv_ceiling: float = 1.0,
        overload_waiting: float = 8.0,
        overload_usage: float = 0.8,
    ) -> None:
        self.cache_threshold = share("cache_threshold", cache_threshold)
        self.spill_requests = within("spill_requests", spill_requests, 0.0)
        self.spill_ratio = within("spill_ratio", spill_ratio, 1.0)
        self.kv_spread = share("kv_spread", kv_spread)
        self.kv_ceiling = share("kv_ceiling", kv_ceiling)
        self.overload_waiting = within("overload_waiting", overload_waiting, 1.0)
        self.overload_usage = share("overload_usage", overload_usage)
        self.expected = SmgLeastLoad()

    def costs(self, candidates: Candidates) -> Array:
        """Price by expected wait; behind, tier by tier: not holders, hot ones, overloaded ones."""
        num_in_flight, usage = candidates.column(NUM_IN_FLIGHT), candidates.column(FRAC_KV_CACHE_USAGE)
        overloaded = (candidates.column(NUM_WAITING) >= self.overload_waiting) | (
            usage >= self.overload_usage
        )
        eligible = ~overloaded | ~(~overloaded).any()
        num_eligible = np.count_nonzero(eligible)
        mean = (num_in_flight * eligible).sum() / num_eligible
        margin = np.minimum(self.spill_requests, np.maximum(LEAST_SWING, SWING * np.sqrt(mean)))
        hot = (num_in_flight > self.spill_ratio * mean) & (num_in_flight > mean + margin)
        match = np.where(eligible, candidates.column(FRAC_PREFIX_HIT), -1.0)
        pressed = self._is_pressed(usage, eligible)
        hit = ~pressed & (most(match) > self.cache_threshold)
        holder = hit & (match == most(match))
        wanted = holder & ~hot
        self.note("pressed", pressed)
        self.note("missed", ~pressed & ~hit)
        self.note("spilled", hit & ~wanted.any())
        wait_s = self.expected.wait_s(candidates)
        # Each tier goes before the next, whatever it holds; nobody wanted: the tier is empty.
        return demote(demote(demote(wait_s, ~wanted), hot & ~wanted), ~eligible)

    def _is_pressed(self, usage: Array, eligible: Any) -> Any:
        fullest, emptiest = most(np.where(eligible, usage, 0.0)), least(np.where(eligible, usage, 1.0))
        return (fullest > self.kv_ceiling) | (fullest - emptiest > self.kv_spread)
