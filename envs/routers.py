"""Several routers in front of one cluster: each request lands on one, which knows only what it saw itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import floor, inf

import numpy as np

from envs.cluster import Request
from envs.counts import Counts
from envs.router_view import RouterView
from envs.sends import Sends

AFFINITIES = ("request", "session")
_MASK = (1 << 64) - 1


class Routers:
    """Where requests land, as a load balancer's hash over connections decides it.

    Args:
        views: One per router.
        affinity: ``request``: every request is a connection of its own; ``session``: those of a session share
            one (requests without a session are connections of their own).
        share_interval_s: How often they tell each other what they count and sent where; None: never.

    A request that is sent again lands on the router that has it: the client does not know of it.
    """

    def __init__(
        self, views: Sequence[RouterView], affinity: str, share_interval_s: float | None = None
    ) -> None:
        if share_interval_s is not None and not share_interval_s > 0:
            raise ValueError(f"share_interval_s is {share_interval_s}, it must be more than 0, or null")
        if affinity not in AFFINITIES:
            raise ValueError(f"router_affinity is {affinity!r}, use one of {', '.join(AFFINITIES)}")
        self.views = tuple(views)
        self._by_session = affinity == "session"
        self._salt = 0
        self._share_interval_s = share_interval_s if len(views) > 1 else None
        self._num_shares = 1  # with that to come
        self.next_share_at_s = inf
        """When they tell each other next; infinite where they do not."""

    def reset(self, rng: np.random.Generator) -> None:
        """Let every router know nothing; where connections land follows from ``rng``."""
        for view in self.views:
            view.reset()
        self._salt = int(rng.integers(1 << 63))
        if self._share_interval_s is not None:
            self._num_shares, self.next_share_at_s = 1, self._share_interval_s
            for view in self.views:
                view.sends = Sends()
            self._num_told = [0] * len(self.views)  # of each router's sends

    def share(self, now_s: float) -> None:
        """Let them tell each other what they count and what they sent where, if it is time."""
        if self._share_interval_s is None or now_s < self.next_share_at_s:
            return
        counts = [view.counts(now_s) for view in self.views]
        total = reduce(Counts.plus, counts)
        for view, own in zip(self.views, counts, strict=True):
            view.told(total.minus(own))
        for number, teller in enumerate(self.views):
            assert teller.sends is not None
            for send in teller.sends.since(self._num_told[number]):
                for view in self.views:
                    if view is not teller:
                        view.index.told(*send, now_s)
            self._num_told[number] = teller.sends.number
        # By a count, and not from now_s alone: a quotient that is rounded down would have them share forever.
        self._num_shares = max(self._num_shares, floor(now_s / self._share_interval_s)) + 1
        self.next_share_at_s = self._num_shares * self._share_interval_s

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
