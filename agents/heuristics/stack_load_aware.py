"""production-stack's load awareness: cache gain less relative load."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Kind, first_of_equals, most, within
from agents.heuristics.session_hash import SessionHash
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT


class StackLoadAware(SessionHash):
    """``loadaware`` of vllm-project/production-stack (#1035, merged 2026-08-09).

    Rule: argmax of match - beta * (r - mean r) / max(1, mean r), r being ``num_in_flight``, the match
    ``frac_prefix_hit``; the first of equals, as there (by URL), so ties depend on the rows' order. Where
    nobody matches (``missed``), ``SessionHash``. There the match is LMCache's, in chunks of 256 tokens.

    Args:
        beta: full cache hits that a load of twice the fleet's mean costs.
        num_points: points on the ring per instance, see ``SessionHash``.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, beta: float = 1.0, num_points: int = 160) -> None:
        super().__init__(num_points)
        self.beta = within("beta", beta, 0.0)

    def settle(self, candidates: Candidates, elsewhere: Array, has_session: Any) -> Array:
        """Price by relative load less match; where there is none, as ``SessionHash``."""
        num_in_flight, match = candidates.column(NUM_IN_FLIGHT), candidates.column(FRAC_PREFIX_HIT)
        mean = num_in_flight.sum() / num_in_flight.size
        weighed = self.beta * (num_in_flight - mean) / np.maximum(mean, 1.0) - match
        missed = most(match) <= 0.0
        self.note("missed", missed)
        return np.where(missed, super().settle(candidates, elsewhere, has_session), first_of_equals(weighed))
