"""A fleet over time: what its instances held, looked at again and again while requests are routed over it."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.cluster import Events
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.disturbed import ABSENT, DOWN, DRAINING, STARTING, UP, DisturbedCluster

STATUSES = (UP, STARTING, DOWN, DRAINING, ABSENT)


class FleetOverTime(NamedTuple):
    """What instances held at some instants; all but ``at_s`` are ``[num_looks, num_instances]``."""

    at_s: NDArray[np.float64]
    """``[num_looks]``, ascending."""
    num_running: NDArray[np.int64]
    num_waiting: NDArray[np.int64]
    frac_kv_cache_usage: NDArray[np.float64]
    frac_prefix_hits: NDArray[np.float64]
    """Prefix-cache hit tokens over queried tokens since time 0."""
    status: NDArray[np.int64]
    """Which of ``STATUSES``."""
    slowdown: NDArray[np.float64]
    """How many times as long as its profile says an instance's steps take."""


class Watched:
    """An emulated cluster that is looked at every ``interval_s``, in all else itself.

        env.cluster = Watched(env.cluster, interval_s=0.25)

    Time passes in shorter pieces, which changes nothing of what happens in it.
    """

    def __init__(self, cluster: EmulatedCluster, interval_s: float) -> None:
        self._cluster, self._interval_s = cluster, interval_s
        self._looks: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def reset(self, rng: np.random.Generator | None = None, num_routers: int = 1) -> None:
        """Reset the cluster; what was seen of earlier episodes is forgotten."""
        self._cluster.reset(rng, num_routers)
        self._looks.clear()
        self.look()

    def advance_to(self, time_s: float, stop_at_completion: bool = False) -> Events:
        """Let time pass as the cluster does, and look when it is time to."""
        cluster, events = self._cluster, Events([], [])
        while True:
            is_idle = time_s == inf and not cluster.num_in_flight  # then no time passes
            until_s = time_s if is_idle else min(time_s, len(self._looks) * self._interval_s)
            passed = cluster.advance_to(until_s, stop_at_completion)
            events.first_tokens.extend(passed.first_tokens)
            events.completions.extend(passed.completions)
            if cluster.now_s >= len(self._looks) * self._interval_s:
                self.look()
            if is_idle or cluster.now_s >= time_s or (stop_at_completion and events.completions):
                return events

    def drain(self) -> Events:
        """Let time pass until nothing is in flight."""
        events = Events([], [])
        while self._cluster.num_in_flight:
            passed = self.advance_to(inf, stop_at_completion=True)
            events.first_tokens.extend(passed.first_tokens)
            events.completions.extend(passed.completions)
        return events

    def look(self) -> None:
        """Look now."""
        cluster, seen = self._cluster, self._cluster.state.instances
        statuses = cluster.statuses if isinstance(cluster, DisturbedCluster) else (UP,) * len(seen)
        self._looks.append(
            (
                cluster.now_s,
                seen["num_running"].copy(),
                seen["num_waiting"].copy(),
                1.0 - seen["num_free_blocks"] / seen["num_blocks"],
                seen["num_hit_tokens"] / np.maximum(seen["num_queried_tokens"], 1),
                [STATUSES.index(status) for status in statuses],
                seen["slowdown"].copy(),
            )
        )

    def seen(self) -> FleetOverTime:
        """What was seen since the last reset."""
        return FleetOverTime(*(np.array(column) for column in zip(*self._looks, strict=True)))
