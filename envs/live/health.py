"""Whether one instance is taken to be up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from envs.live.clock import Clock
from envs.live.limits import Limits

DOWN, UP = "unhealthy", "healthy again"
Row = Literal["request", "reset"] | int
"""Whose failures are counted in a row: all requests', those of a reset's reads, a router's scrapes'."""


class Health:
    """Down after some failures in a row, then probed, ever more seldom, until it answers.

    Requests and each router's scrapes have a row of their own: a server whose engine hangs still answers
    scrapes, and one hiccup fails a scrape of every router. For the first reason an instance that went down
    again without having served is probed no sooner than it was.

    Args:
        probe: Whether ``/health`` answers.
        spawn: Starts a task in the loop.
        note: Told what changed.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        probe: Callable[[], Awaitable[bool]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        note: Callable[[str], None],
    ) -> None:
        self._limits, self._clock, self._probe, self._spawn, self._note = limits, clock, probe, spawn, note
        self.is_up = True
        self._failures: Counter[Row] = Counter()
        self._interval_s = limits.probe_interval_s

    def succeeded(self, row: Row) -> None:
        """Note that it did what it should."""
        self._failures[row] = 0
        if row == "request" and self.is_up:
            self._interval_s = self._limits.probe_interval_s

    def failed(self, row: Row) -> None:
        """Note that it did not: no connection, an error of its own, or too late."""
        self._failures[row] += 1
        if self._failures[row] >= self._limits.unhealthy_after:
            self.take_down()

    def take_down(self) -> None:
        """Take it to be down from now on."""
        if self.is_up:
            self.is_up = False
            self._note(DOWN)
            self._spawn(self._bring_back())

    async def _bring_back(self) -> None:
        answers = False
        while not answers:
            await asyncio.sleep(self._clock.seconds(self._interval_s))
            self._interval_s = min(2 * self._interval_s, self._limits.max_probe_interval_s)
            answers = await self._probe()
        self._failures.clear()
        self.is_up = True
        self._note(UP)
