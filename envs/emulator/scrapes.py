"""What each router's scrapes brought, where some are lost, late, or find nobody."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.cluster import ClusterSnapshot


class Gauges(NamedTuple):
    """What one scrape measures, each ``[num_instances]``; see ``ClusterSnapshot``."""

    num_waiting: NDArray[np.int64]
    num_running: NDArray[np.int64]
    frac_kv_cache_usage: NDArray[np.float64]
    frac_prefix_hits: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Scrape:
    """What a router knows of all instances, or one scrape's part of it."""

    gauges: Gauges
    measured_at_s: NDArray[np.float64]
    asked_at_s: NDArray[np.float64]
    """When that was scraped which tells whether the instance is healthy: values, or a refusal."""
    healthy: NDArray[np.bool_]

    def updated(self, news: _Scrape, answered: NDArray[np.bool_]) -> _Scrape:
        """This, with the news of the instances whose scrape was not lost.

        An instance that does not serve refuses its scrape: it is seen to be down, its values stay. News that
        later news overtook are none.
        """
        answered = answered & (news.asked_at_s > self.asked_at_s)
        brought = answered & news.healthy
        if brought.all():
            return news
        gauges = Gauges(
            *(np.where(brought, new, old) for new, old in zip(news.gauges, self.gauges, strict=True))
        )
        return _Scrape(
            gauges,
            np.where(brought, news.measured_at_s, self.measured_at_s),
            np.where(answered, news.asked_at_s, self.asked_at_s),
            np.where(answered, news.healthy, self.healthy),
        )


_News = tuple[float, int, int, _Scrape, NDArray[np.bool_]]
"""When a scrape becomes known, its number, its part's number, what it says and of which instances."""


class Scrapes:
    """The scrapes of several routers, each with what it knows.

    The n-th scrape of all is at n times ``period_s`` and is that of router n modulo their number. At time 0
    every router knows every instance.

    Args:
        gauges: As measured at time 0.
        healthy: Which instances serve then.
        num_routers: Each scrapes for itself, spread evenly over the interval.
        interval_s: Between two scrapes of one router.
        frac_lost: Chance that the scrape of an instance brings nothing.
        rng: Drawn from once per scrape, so that how time is advanced changes nothing.
    """

    def __init__(
        self,
        gauges: Gauges,
        healthy: NDArray[np.bool_],
        num_routers: int,
        interval_s: float,
        frac_lost: float,
        rng: np.random.Generator,
    ) -> None:
        self._period_s = interval_s / num_routers
        self._frac_lost, self._rng = frac_lost, rng
        self._num_taken = 0
        at_s = np.zeros(len(healthy))
        self._known = [_Scrape(gauges, at_s, at_s, healthy)] * num_routers
        self._under_way: list[list[_News]] = [[] for _ in range(num_routers)]

    @property
    def next_at_s(self) -> float:
        """When the next one is due."""
        return (self._num_taken + 1) * self._period_s

    def take(self, gauges: Gauges, healthy: NDArray[np.bool_], lag_s: NDArray[np.float64]) -> None:
        """Take the scrape that is due.

        Args:
            gauges: What the instances measure.
            healthy: Which of them serve.
            lag_s: Time until that is known, of each.
        """
        at_s = self.next_at_s
        self._num_taken += 1
        router = self._num_taken % len(self._known)
        answered = np.ones(len(healthy), np.bool_)
        if self._frac_lost > 0.0:
            answered = self._rng.random(len(healthy)) >= self._frac_lost
        times_s = np.full(len(healthy), at_s)
        scrape = _Scrape(gauges, times_s, times_s, healthy)
        for part, late_s in enumerate(sorted(set(lag_s.tolist()))):
            news = at_s + late_s, self._num_taken, part, scrape, answered & (lag_s == late_s)
            heappush(self._under_way[router], news)
        self._learn(router, at_s)

    def snapshot(self, router: int, now_s: float) -> ClusterSnapshot:
        """What a router knows now."""
        self._learn(router, now_s)
        known = self._known[router]
        return ClusterSnapshot(*known.gauges, age_s=now_s - known.measured_at_s, healthy=known.healthy)

    def _learn(self, router: int, now_s: float) -> None:
        under_way = self._under_way[router]
        while under_way and under_way[0][0] <= now_s:
            _, _, _, scrape, answered = heappop(under_way)
            self._known[router] = self._known[router].updated(scrape, answered)
