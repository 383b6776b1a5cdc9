"""One router's scrapes of one instance."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from envs.live.client import Client, NoAnswerError
from envs.live.clock import Clock
from envs.live.health import Health, Row
from envs.live.metrics import BadMetricsError, Metrics, parse
from envs.live.notices import Notices

MAX_UNSEEN = 4096
"""Scrapes kept for an environment that is behind the clock."""


class Scrape(NamedTuple):
    """What a router may know of an instance."""

    known_at_s: float
    taken_at_s: float
    """When it was asked for: what it says is no older."""
    metrics: Metrics
    frac_prefix_hits: float
    """Hit tokens over queried tokens since the last reset of the cluster, or restart of the server.

    Where the reset's own read brought nothing, since the first scrape that did.
    """


class Scraper:
    """Reads the gauges every so often; a scrape that brings nothing, or what cannot be, changes nothing.

    Args:
        first: What was read at time 0, if the server answered.
        router: Whose scrapes they are.
        counts: Where scrapes are counted.
        told: Called after each that brought something.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        health: Health,
        notices: Notices,
        counts: Counter[str],
        first: Metrics | None,
        router: int,
        told: Callable[[], None] | None = None,
    ) -> None:
        self._client, self._clock, self._health, self._notices = client, clock, health, notices
        self._counts, self._router, self._told = counts, router, told
        self._last = first
        self._base = first or Metrics()
        self._scrapes = deque([Scrape(0.0, 0.0, first or Metrics(), 0.0)], MAX_UNSEEN)

    def seen(self, now_s: float) -> Scrape:
        """The last scrape that had been answered by an instant, which never goes back from call to call.

        For the environment's thread; the loop's only adds.
        """
        scrapes = self._scrapes
        while len(scrapes) > 1 and scrapes[1].known_at_s <= now_s:
            scrapes.popleft()
        return scrapes[0]

    async def run(self, first_at_s: float, interval_s: float) -> None:
        """Scrape at ``first_at_s`` and every ``interval_s`` from then on, until cancelled.

        Those that come due while one is under way are left out.
        """
        at_s = first_at_s
        while True:
            await asyncio.sleep(self._clock.until(at_s))
            await self._scrape()
            at_s += interval_s * max(1, ceil((self._clock.now_s - at_s) / interval_s))

    async def _scrape(self) -> None:
        taken_at_s = self._clock.now_s
        metrics = await read(self._client, self._health, self._notices, self._counts, self._router)
        if metrics is None:
            return
        last, self._last = self._last, metrics
        if last is None:
            self._base = metrics
        elif (
            metrics.num_hit_tokens < last.num_hit_tokens
            or metrics.num_queried_tokens < last.num_queried_tokens
        ):
            self._base = Metrics()  # counters fall when the server was restarted
        num_hits = metrics.num_hit_tokens - self._base.num_hit_tokens
        num_queried = metrics.num_queried_tokens - self._base.num_queried_tokens
        frac = min(num_hits / max(num_queried, 1.0), 1.0)
        self._scrapes.append(Scrape(self._clock.now_s, taken_at_s, metrics, frac))
        if self._told is not None:
            self._told()


async def read(
    client: Client, health: Health, notices: Notices, counts: Counter[str], row: Row
) -> Metrics | None:
    """Read an instance's gauges; what came of it is counted and noted. None: nothing that can be used."""
    counts["num_scrapes"] += 1
    try:
        metrics = parse(await client.get("/metrics", client.limits.scrape_timeout_s))
    except NoAnswerError as error:
        counts["num_scrapes_failed"] += 1
        notices.note(client.endpoint.name, f"scrape: {error}")
        if error.is_down:
            health.failed(row)
        return None
    except BadMetricsError as error:
        counts["num_scrapes_refused"] += 1
        notices.note(client.endpoint.name, f"scrape refused: {error}")
        return None
    health.succeeded(row)
    return metrics
