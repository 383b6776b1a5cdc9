"""Several routers in front of one cluster: each request lands on one, which knows only what it saw itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.cluster import Request
from envs.router_view import RouterView

AFFINITIES = ("request", "session")
_MASK = (1 << 64) - 1


class Routers:
    """Where requests land, as a load balancer's hash over connections decides it.

    Args:
        views: One per router.
        affinity: ``request``: every request is a connection of its own; ``session``: those of a session share
            one (requests without a session are connections of their own).

    A request that is sent again lands on the router that has it: the client does not know of it.
    """

    def __init__(self, views: Sequence[RouterView], affinity: str) -> None:
        if affinity not in AFFINITIES:
            raise ValueError(f"router_affinity is {affinity!r}, use one of {', '.join(AFFINITIES)}")
        self.views = tuple(views)
        self._by_session = affinity == "session"
        self._salt = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Let every router know nothing; where connections land follows from ``rng``."""
        for view in self.views:
            view.reset()
        self._salt = int(rng.integers(1 << 63))

    def router_of(self, request: Request) -> int:
        """Which router a request lands on."""
        if len(self.views) == 1:
            return 0
        in_session = self._by_session and request.session_id >= 0
        connection = 2 * request.session_id + 1 if in_session else 2 * request.request_id
        return _mixed(self._salt + connection) % len(self.views)


def _mixed(value: int) -> int:
    """Scramble 64 bits (splitmix64's step and finaliser)."""
    value = value * 0x9E3779B97F4A7C15 & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
