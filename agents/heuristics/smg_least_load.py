"""smg's least expected wait."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, first_of_equals, within
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    NUM_TOKENS_SENT_SINCE_SCRAPE,
    NUM_WAITING,
    RECENT_TOKENS_PER_S,
)


class SmgLeastLoad(Heuristic):
    """``least_load`` of lightseekorg/smg at 73da68c (1.13.0), the load-only rule that corrects staleness.

    Rule: argmin (queued tokens + tokens sent since the poll) / throughput + 0.15 s * k / (1 - k), k being
    the KV usage, at most 0.999. Of equals the first, as at 73da68c, so ties depend on the rows' order; the
    package 1.13.0 takes a random one.

    Columns: ``num_tokens_sent_since_scrape`` and ``frac_kv_cache_usage`` are the router's own signals. Queued
    tokens are not observed: ``num_waiting`` times 1024, the router's own guess for a request of unknown
    length, stands in (0 tokens: as with engines that do not report them). vLLM exports no throughput, so it
    is the router's default of 2000 tokens/s everywhere; with ``live_throughput`` it is
    ``recent_tokens_per_s`` where that is above 0, which counts prompts too and fades on an idle instance.
    Instances whose scrape fails are not told apart (there, requests in flight take over after 3 polls).

    Args:
        kv_pressure_s: weight of the KV term, seconds.
        default_tokens_per_s: throughput where none is known.
        mean_prefill_tokens: tokens that a waiting request stands for.
        live_throughput: whether to use the measured throughput.
    """

    kind: ClassVar[Kind] = "load"

    def __init__(
        self,
        kv_pressure_s: float = 0.15,
        default_tokens_per_s: float = 2000.0,
        mean_prefill_tokens: float = 1024.0,
        live_throughput: bool = False,
    ) -> None:
        self.kv_pressure_s = within("kv_pressure_s", kv_pressure_s, 0.0)
        self.default_tokens_per_s = within("default_tokens_per_s", default_tokens_per_s, 1e-6)
        self.mean_prefill_tokens = within("mean_prefill_tokens", mean_prefill_tokens, 0.0)
        self.live_throughput = live_throughput

    def costs(self, candidates: Candidates) -> Array:
        """Price by expected wait, ranked."""
        return first_of_equals(self.wait_s(candidates))

    def wait_s(self, candidates: Candidates) -> Array:
        """Return the expected wait, seconds, ``[num_valid]``."""
        column = candidates.column
        num_tokens = self.mean_prefill_tokens * column(NUM_WAITING) + column(NUM_TOKENS_SENT_SINCE_SCRAPE)
        tokens_per_s: Array | float = self.default_tokens_per_s
        if self.live_throughput:
            recent = column(RECENT_TOKENS_PER_S)
            tokens_per_s = np.where(recent > 0.0, recent, self.default_tokens_per_s)
        usage = np.minimum(column(FRAC_KV_CACHE_USAGE), 0.999)
        wait_s: Array = num_tokens / tokens_per_s + self.kv_pressure_s * usage / (1.0 - usage)
        return wait_s
