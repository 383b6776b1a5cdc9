"""All that runs in the loop's thread of a live cluster: streams, scrapes, probes and KV events."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from envs.live.cache_view import CacheView
from envs.live.client import Client
from envs.live.clock import Clock
from envs.live.endpoint import Endpoint
from envs.live.health import DOWN, Health
from envs.live.limits import Limits
from envs.live.mailbox import Mailbox
from envs.live.metrics import Metrics
from envs.live.notices import Notices
from envs.live.scraper import Scraper, read
from envs.live.stream import Flight, Stream

SETTLE_INTERVAL = 0.05  # seconds between two looks at whether an instance is idle

Tasks = set[asyncio.Task[None]]


class Traffic:
    """Made in any thread; everything else is called in the loop's, but for what says otherwise.

    Args:
        endpoints: The instances, in index order.
        views: What is filled by the KV events of each, or None.
        keep_token_times: As of ``Stream``.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        limits: Limits,
        clock: Clock,
        mailbox: Mailbox,
        notices: Notices,
        views: Sequence[CacheView] | None,
        keep_token_times: bool,
    ) -> None:
        self._endpoints, self._limits, self._clock = endpoints, limits, clock
        self._mailbox, self._notices, self._views = mailbox, notices, views
        self._keep_token_times = keep_token_times
        self._flights: Tasks = set()
        self._scrapes: Tasks = set()
        self._others: Tasks = set()
        self._clients: list[Client] = []
        self.health: list[Health] = []
        """Of each instance; whether it ``is_up`` may be read in any thread."""
        self.scrapers: list[list[Scraper]] = []
        """``[num_routers][num_instances]``; what was ``seen`` may be read in the environment's thread."""

    async def open(self) -> None:
        """Make ready to send; wait until KV events are received, where they are followed."""
        for endpoint in self._endpoints:
            client = Client(endpoint, self._limits, self._clock.speed_factor)
            self._clients.append(client)
            note = functools.partial(self._note_health, endpoint.name)
            spawn = functools.partial(self._spawn, self._others)
            self.health.append(Health(self._limits, self._clock, client.is_up, spawn, note))
        if self._views is not None:
            await self._follow(self._views)

    async def begin(self, num_routers: int, interval_s: float) -> None:
        """End all streams, empty the caches, and begin at time 0 with each router knowing each instance."""
        has_cancelled = await _cancel(self._flights)
        await _cancel(self._scrapes)
        if has_cancelled:
            await self._settle()
        have_reset = await asyncio.gather(*[client.reset_prefix_cache() for client in self._clients])
        self._notices.restart()
        self._mailbox.restart()
        self._views_before = self._view_counts()
        counts = self._mailbox.counts
        counts["num_prefix_caches_reset"] = sum(have_reset)
        first = await asyncio.gather(*[self._read_first(index) for index in range(len(self._clients))])
        self._clock.restart()
        self.scrapers = [
            [
                Scraper(client, self._clock, health, self._notices, counts, metrics, router)
                for client, health, metrics in zip(self._clients, self.health, first, strict=True)
            ]
            for router in range(num_routers)
        ]
        for router, scrapers in enumerate(self.scrapers):
            first_at_s = interval_s * (router or num_routers) / num_routers
            for scraper in scrapers:
                self._spawn(self._scrapes, scraper.run(first_at_s, interval_s))

    def send(self, flight: Flight) -> None:
        """Begin a request's stream."""
        index = flight.instance_index
        stream = Stream(
            flight,
            self._clients[index],
            self._clock,
            self._mailbox,
            self.health[index],
            self._notices,
            self._keep_token_times,
        )
        self._spawn(self._flights, stream.run())

    async def close(self) -> None:
        """End everything, and every connection."""
        for tasks in (self._flights, self._scrapes, self._others):
            await _cancel(tasks)
        for client in self._clients:
            await client.close()

    def view_counts(self) -> Mapping[str, int]:
        """The sums of what the views have counted since the episode began; in any thread."""
        return {name: count - self._views_before[name] for name, count in self._view_counts().items()}

    def _view_counts(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for view in self._views or ():
            for name, count in view.counters().items():
                counts[name] = counts.get(name, 0) + count
        return counts

    async def _read(self, index: int) -> Metrics | None:
        counts = self._mailbox.counts
        return await read(self._clients[index], self.health[index], self._notices, counts, "reset")

    async def _read_first(self, index: int) -> Metrics | None:
        """What an instance says at time 0; one that says nothing may serve all the same."""
        metrics = await self._read(index)
        if metrics is None and not await self._clients[index].is_up():
            self.health[index].take_down()
        return metrics

    async def _settle(self) -> None:
        """Wait until the instances have let go of what was cancelled, if they do so in good time."""
        try:
            async with asyncio.timeout(self._clock.seconds(self._limits.connect_timeout_s)):
                for index, health in enumerate(self.health):
                    while health.is_up:
                        metrics = await self._read(index)
                        if metrics is not None and metrics.num_running + metrics.num_waiting == 0:
                            break
                        await asyncio.sleep(SETTLE_INTERVAL)
        except TimeoutError:
            pass

    async def _follow(self, views: Sequence[CacheView]) -> None:
        from envs.live.kv_events import follow

        connected = []
        for endpoint, view in zip(self._endpoints, views, strict=True):
            connected.append(asyncio.Event())
            self._spawn(self._others, follow(str(endpoint.kv_events), view, connected[-1]))
        within_s = self._limits.connect_timeout_s
        for endpoint, event in zip(self._endpoints, connected, strict=True):
            try:
                await asyncio.wait_for(event.wait(), self._clock.seconds(within_s))
            except TimeoutError:
                raise ValueError(
                    f"{endpoint}: no KV events at {endpoint.kv_events} within {within_s:g} s; mend kv_events,"
                    " or start vLLM with a --kv-events-config whose endpoint it binds (ipc:// or tcp://*:port)"
                ) from None

    def _note_health(self, name: str, what: str) -> None:
        self._mailbox.counts["num_times_unhealthy"] += what == DOWN
        self._notices.note(name, what)

    def _spawn(self, tasks: Tasks, coroutine: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._mailbox.fail(error)

        task = asyncio.get_running_loop().create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(ended)


async def _cancel(tasks: Tasks) -> bool:
    """Cancel tasks and wait for their end; return whether there were any."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
    return bool(ending)
