"""smg's hash of the prefix with bounded load."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Kind, first_of_equals, within
from agents.heuristics.session_hash import SessionHash
from envs.observation import NUM_IN_FLIGHT


class SmgPrefixHash(SessionHash):
    """``prefix_hash`` of lightseekorg/smg (73da68c, and as documented for 1.13.0).

    Rule, r being ``num_in_flight``: the instance that the hash of the prompt's first 256 tokens has on the
    ring, unless its r > 1.25 * mean and r > mean + 10, the mean counting this request; then (``overloaded``)
    argmin r, the first of equals as there, so ties depend on the rows' order.

    Approximations: the prompt's tokens are not observed, its session stands for its prefix; so prompts of
    different sessions that begin alike may part. Without session argmin r (there a request without tokens is
    refused). The ring is that of ``SessionHash``.

    Args:
        load_factor: share of the mean load up to which the hash decides.
        margin: requests over the mean up to which the hash decides.
        num_points: points on the ring per instance.
    """

    kind: ClassVar[Kind] = "session"

    def __init__(self, load_factor: float = 1.25, margin: float = 10.0, num_points: int = 160) -> None:
        super().__init__(num_points)
        self.load_factor = within("load_factor", load_factor, 1.0)
        self.margin = within("margin", margin, 0.0)

    def settle(self, candidates: Candidates, elsewhere: Array, has_session: Any) -> Array:
        """Price the prefix's instance 0 and others 1, or by requests in flight."""
        num_in_flight = candidates.column(NUM_IN_FLIGHT)
        mean = (num_in_flight.sum() + 1.0) / num_in_flight.size
        own = num_in_flight[elsewhere.argmin()]
        overloaded = has_session & (own > self.load_factor * mean) & (own > mean + self.margin)
        self.note("without_session", ~has_session)
        self.note("overloaded", overloaded)
        return np.where(has_session & ~overloaded, elsewhere, first_of_equals(num_in_flight))
