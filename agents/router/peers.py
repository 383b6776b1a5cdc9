"""Other routers before the same instances: each asks the others what they count of their own requests.

A router that knows only its own share of the load herds with the others (``env.num_routers`` shows by how
much, ``env.share_interval_s`` what telling each other mends). So each of them answers ``GET /counts``, and
asks the others every so often. Instances are told apart by names, which must be the same at all of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import aiohttp
import numpy as np

from agents.hyperparameters import check_positive
from agents.router.desk import Desk
from agents.router.log import Log
from envs import counts
from envs.counts import COUNTED, Counts

LONGEST_WAIT_S = 2.0
"""Between two attempts at a peer that does not answer."""
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class PeersSettings:
    """Who they are, and how often they are asked."""

    urls: tuple[str, ...] = ()
    """Up to the port, each another router's."""
    interval_s: float = 0.05
    timeout_s: float = 0.5
    max_age_s: float = 2.0
    """What a peer said is forgotten once it is so old."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_positive(
            **{f"peers.{name}": getattr(self, name) for name in ("interval_s", "timeout_s", "max_age_s")}
        )
        object.__setattr__(self, "urls", tuple(url.rstrip("/") for url in self.urls))
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"peers.urls has {url!r}; write it like http://host:8000")


class Peers:
    """Asks the others, and lets the desk know.

    Args:
        settings: See there.
        desk: What they count is added to its own counters.
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
        wait_s, is_up, clock = self.settings.interval_s, False, self._desk.fleet.clock
        while True:
            try:
                self._held[url] = self._read(await self._ask(url)), clock.now_s
            except (aiohttp.ClientError, OSError, ValueError) as error:
                if is_up or wait_s == self.settings.interval_s:
                    reason = str(error) or type(error).__name__
                    self._log.event("peer_does_not_answer", peer=url, reason=reason)
                is_up, wait_s = False, min(2.0 * wait_s, LONGEST_WAIT_S)
            else:
                if not is_up:
                    self._log.event("peer_answers", peer=url)
                is_up, wait_s = True, self.settings.interval_s
            self._tell()
            await asyncio.sleep(wait_s)

    async def _ask(self, url: str) -> Any:
        assert self._session is not None
        async with self._session.get(url + "/counts", allow_redirects=False) as response:
            said = await response.content.read(MAX_BYTES)
            if response.status != 200 or not response.content.at_eof():
                raise ValueError(f"http {response.status}, or more than {MAX_BYTES} bytes")
        return json.loads(said)

    def _read(self, said: Any) -> Counts:
        """What a peer said. Raises ``ValueError`` where it is not what a router says."""
        if not isinstance(said, Mapping) or not isinstance(said.get("instances"), Mapping):
            raise ValueError("not the counts of a router")
        fleet = self._desk.fleet
        counted = counts.none(fleet.max_instances).instances
        for instance in fleet:
            row = said["instances"].get(instance.endpoint.name)
            if row is not None:
                counted[instance.number] = _numbers(row, len(COUNTED))
        return Counts(counted, float(_numbers([said.get("arrivals_per_s")], 1)[0]))

    def _tell(self) -> None:
        oldest_s = self._desk.fleet.clock.now_s - self.settings.max_age_s
        self._held = {url: held for url, held in self._held.items() if held[1] >= oldest_s}
        told = [held for held, _ in self._held.values()]
        self._desk.told(reduce(Counts.plus, told) if told else None, len(told))


def _numbers(row: Any, num: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        numbers = np.asarray(row, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (num,) or not np.isfinite(numbers).all() or (numbers < 0).any():
        raise ValueError(f"{num} numbers from 0 were expected, not {str(row)[:100]}")
    return numbers
