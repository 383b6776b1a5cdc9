"""Other routers before the same instances: each asks the others what they count and what they sent where.

A router that knows only its own share of the load herds with the others (``env.num_routers`` shows by how
much, ``env.share_interval_s`` what telling each other mends). So each of them answers ``GET /counts``, and
asks the others every so often. Instances must have the same names at all of them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import reduce
from typing import Any

import aiohttp

from agents.hyperparameters import check_positive
from agents.router.desk import Desk
from agents.router.gossip import read
from agents.router.log import Log
from envs.counts import Counts

LONGEST_WAIT_S = 2.0
"""Between two attempts at a peer that does not answer."""
MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class PeersSettings:
    """Who they are, and how often they are asked."""

    urls: tuple[str, ...] = ()
    """Up to the port, each another router's."""
    interval_s: float = 0.02
    timeout_s: float = 0.5
    max_age_s: float = 2.0
    """What a peer counts is forgotten once it is so old."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        names = ("interval_s", "timeout_s", "max_age_s")
        check_positive(**{f"peers.{name}": getattr(self, name) for name in names})
        object.__setattr__(self, "urls", tuple(url.rstrip("/") for url in self.urls))
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"peers.urls has {url!r}; write it like http://host:8000")


class Peers:
    """Asks the others, and lets the desk know.

    Args:
        settings: See there.
        desk: What they count is added to its own counters, what they sent goes into its prefix index.
        log: Told of peers that come and go.
    """

    def __init__(self, settings: PeersSettings, desk: Desk, log: Log) -> None:
        self.settings, self._desk, self._log = settings, desk, log
        self._held: dict[str, tuple[Counts, float]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin to ask."""
        if not self.settings.urls:
            return
        timeout = aiohttp.ClientTimeout(total=self.settings.timeout_s)
        self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        self._tasks = [asyncio.create_task(self._follow(url)) for url in self.settings.urls]

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _follow(self, url: str) -> None:
        """Ask one of them, again and again."""
        wait_s, is_up, number, clock = self.settings.interval_s, None, 0, self._desk.fleet.clock
        while True:
            try:
                said = read(await self._ask(url, number), self._desk)
            except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
                if is_up is not False:
                    reason = str(error) or type(error).__name__
                    self._log.event("peer_does_not_answer", peer=url, reason=reason)
                is_up, wait_s = False, min(2.0 * wait_s, LONGEST_WAIT_S)
            else:
                if not is_up:
                    self._log.event("peer_answers", peer=url)
                is_up, wait_s = True, self.settings.interval_s
                self._held[url] = said.counts, clock.now_s
                for send in said.sends:
                    self._desk.view.index.told(*send, clock.now_s)
                # One that was started anew counts from 0: what it said before its number fell is asked again.
                number = said.number if said.number >= number else 0
            self._tell()
            await asyncio.sleep(wait_s)

    async def _ask(self, url: str, since: int) -> Any:
        assert self._session is not None
        async with self._session.get(f"{url}/counts?since={since}", allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"http {response.status}")
            said = bytearray()
            async for part in response.content.iter_any():
                said += part
                if len(said) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return json.loads(said)

    def _tell(self) -> None:
        oldest_s = self._desk.fleet.clock.now_s - self.settings.max_age_s
        self._held = {url: held for url, held in self._held.items() if held[1] >= oldest_s}
        told = [counts for counts, _ in self._held.values()]
        self._desk.num_peers = len(told)
        self._desk.view.told(reduce(Counts.plus, told) if told else None)
