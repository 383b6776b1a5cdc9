"""Lodestar's anti-greedy filter: where KV caches are full, a prefix is not copied to yet another instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.heuristics.heuristic import least, most
from agents.hyperparameters import check_counts, check_not_negative, check_range
from envs.observation import FRAC_KV_CACHE_USAGE, FRAC_PREFIX_HIT, NUM_PROMPT_TOKENS


@dataclass(frozen=True)
class AntiGreedy:
    """Under pressure, keep only the instances that hold most of the request's prefix.

    Lodestar (arXiv 2606.00946) restricts a request whose best match is over 100 tokens to 2 instances when
    the mean KV usage is over 80 %, by a hash of its prefix group. Which group that is is not observed. The
    longest matches stand in: a group that is confined to two instances has its longest matches there. While
    fewer than ``num_candidates`` hold anything of it, the group may yet spread, and nothing is filtered.
    """

    max_kv_cache_usage: float = 0.8
    """Mean over the instances from which on requests are confined."""
    min_hit_tokens: float = 100.0
    """Requests whose longest match is no longer are not."""
    num_candidates: int = 2
    """How many instances are kept; equal matches are kept together."""

    def __post_init__(self) -> None:
        """Refuse what filters nothing or everything."""
        check_range(0, 1, max_kv_cache_usage=self.max_kv_cache_usage)
        check_not_negative(min_hit_tokens=self.min_hit_tokens)
        check_counts(num_candidates=self.num_candidates)

    def kept(self, instances: Any, request: Any) -> Any:
        """Which of the instances that may be chosen stay, bool ``[num_valid]``. Arrays may be traced.

        Args:
            instances: Raw features, ``[num_valid, num_instance_features]``.
            request: ``[num_request_features]``.
        """
        usage, matches = instances[:, FRAC_KV_CACHE_USAGE], instances[:, FRAC_PREFIX_HIT]
        is_full = usage.sum() / usage.size > self.max_kv_cache_usage
        is_cached = most(matches) * request[NUM_PROMPT_TOKENS] > self.min_hit_tokens
        places = (-matches).argsort(kind="stable").argsort(kind="stable")
        shortest_kept = least(np.where(places < self.num_candidates, matches, np.float32(1.0)))
        return (matches >= shortest_kept) | ~(is_full & is_cached)
