"""The instances behind a router: who they are, whether they are up, what they last said of themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from agents.router.asked import BLOCK_SIZE
from envs.cluster import ClusterSnapshot, InstanceTraits
from envs.live.client import Client
from envs.live.clock import Clock
from envs.live.discovery import ask, known
from envs.live.endpoint import Endpoint
from envs.live.health import Health
from envs.live.limits import Limits
from envs.live.notices import Notices
from envs.live.scraper import Scraper

UNKNOWN = InstanceTraits(
    name="",
    num_blocks=1,
    block_size=BLOCK_SIZE,
    max_num_seqs=1,
    max_num_batched_tokens=1,
    max_model_len=2**31 - 1,
    prefix_caching=True,
    prefill_tokens_per_s=0.0,
    decode_step_s=0.0,
)
"""Of an instance that has not yet said anything of itself: requests of any length may go there."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Between two attempts to ask an instance what it is."""


@dataclass
class Instance:
    """One place among the rows of an observation, taken."""

    number: int
    endpoint: Endpoint
    client: Client
    health: Health
    scraper: Scraper
    traits: InstanceTraits
    models: tuple[str, ...] = ()
    """What it serves; empty while it has not said."""
    num_in_flight: int = 0
    num_served: int = 0
    num_failed: int = 0
    is_leaving: bool = False
    """Whether it finishes what it has and gets nothing new."""


class Fleet:
    """Up to ``max_instances`` instances, which may come and go.

    Args:
        max_instances: Places; an instance keeps its own while it is there.
        limits: How long to wait for what.
        scrape_interval_s: Between two looks at an instance's metrics.
        clock: The router's.
        traits_changed: Called with an instance that is new, or has said what it is.
        state_changed: Called when one was scraped, or may be sent requests again, or no more.
    """

    def __init__(
        self,
        max_instances: int,
        limits: Limits,
        scrape_interval_s: float,
        clock: Clock,
        traits_changed: Callable[[Instance], None],
        state_changed: Callable[[], None],
    ) -> None:
        self.max_instances, self.limits, self.scrape_interval_s = max_instances, limits, scrape_interval_s
        self.clock = clock
        self.notices = Notices()
        self.counts: Counter[str] = Counter()
        self._traits_changed, self._state_changed = traits_changed, state_changed
        self._places: list[Instance | None] = [None] * max_instances
        self._tasks: dict[int, set[asyncio.Task[None]]] = {number: set() for number in range(max_instances)}
        self._num_waiting = np.zeros(max_instances, np.int64)
        self._num_running = np.zeros(max_instances, np.int64)
        self._usage, self._hits = np.zeros(max_instances), np.zeros(max_instances)
        self._taken_at_s = np.zeros(max_instances)
        self._is_open = np.zeros(max_instances, np.bool_)

    def __iter__(self) -> Iterator[Instance]:
        return (instance for instance in self._places if instance is not None)

    def __getitem__(self, number: int) -> Instance:
        instance = self._places[number]
        if instance is None:
            raise IndexError(f"there is no instance {number}")
        return instance

    @property
    def num_open(self) -> int:
        """Instances that may be sent requests."""
        return int(np.count_nonzero(self._is_open))

    async def become(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Have these instances from now on; those that stay are left as they are, those that go finish.

        Raises ``ValueError`` where there are more than places, or two with one url; nothing is changed then.
        """
        check(endpoints, self.max_instances)
        held = {instance.endpoint.name: instance for instance in self if not instance.is_leaving}
        coming = [name for name in endpoints if name not in held or held[name].endpoint != endpoints[name]]
        leaving = [
            instance
            for name, instance in held.items()
            if name not in endpoints or instance.endpoint != endpoints[name]
        ]
        free = self._places.count(None)
        if len(coming) > free:
            raise ValueError(
                f"{len(coming)} endpoints are new, and {free} of max_instances ({self.max_instances}) places"
                " are free until those that leave have finished: raise max_instances, or try again later"
            )
        for instance in leaving:
            instance.is_leaving = True
            self._update(instance)
        for name in coming:
            self._join(endpoints[name])
        await self._sweep()

    async def close(self) -> None:
        """End everything, and every connection."""
        for instance in list(self):
            await self._remove(instance)

    def began(self, instance: Instance) -> None:
        """Note that a request is on its way there."""
        instance.num_in_flight += 1

    def served(self, instance: Instance) -> None:
        """Note that it was answered there."""
        instance.num_served += 1
        instance.health.succeeded("request")
        self.left(instance)

    def failed(self, instance: Instance, is_down: bool) -> None:
        """Note that it failed there; ``is_down``: that speaks against the instance."""
        instance.num_failed += 1
        if is_down:
            instance.health.failed("request")
        self.left(instance)

    def left(self, instance: Instance) -> None:
        """Note that it is over; by itself: its client has gone."""
        instance.num_in_flight -= 1
        if instance.is_leaving and instance.num_in_flight == 0:
            self._spawn(instance.number, self._remove(instance))

    def snapshot(self) -> ClusterSnapshot:
        """What the instances last said, and which may be sent requests; ``[max_instances]``."""
        return ClusterSnapshot(
            num_waiting=self._num_waiting,
            num_running=self._num_running,
            frac_kv_cache_usage=self._usage,
            frac_prefix_hits=self._hits,
            age_s=np.maximum(self.clock.now_s - self._taken_at_s, 0.0),
            healthy=self._is_open,
        )

    def models(self) -> list[str]:
        """What is served, in order of the instances, each once."""
        return list(dict.fromkeys(model for instance in self for model in instance.models))

    def _join(self, endpoint: Endpoint) -> None:
        number = self._places.index(None)
        client = Client(endpoint, self.limits)
        health = Health(
            self.limits,
            self.clock,
            client.is_up,
            partial(self._spawn, number),
            partial(self._note_health, number),
        )
        scraper = Scraper(
            client,
            self.clock,
            health,
            self.notices,
            self.counts,
            None,
            0,
            partial(self._scraped, number),
        )
        traits = replace(UNKNOWN, name=endpoint.name)
        instance = Instance(number, endpoint, client, health, scraper, traits)
        self._places[number] = instance
        for array in (self._num_waiting, self._num_running, self._usage, self._hits):
            array[number] = 0
        self._taken_at_s[number] = self.clock.now_s
        self._traits_changed(instance)
        self._update(instance)
        self._spawn(number, self._ask(instance))
        self._spawn(number, scraper.run(self.clock.now_s, self.scrape_interval_s))

    async def _ask(self, instance: Instance) -> None:
        """Ask an instance what it is, until it says."""
        endpoint, wait_s = instance.endpoint, FIRST_WAIT_S
        while True:
            try:
                said = await ask(endpoint, self.limits)
                break
            except ValueError as error:
                self.notices.note(endpoint.name, "does not say what it is", str(error))
            await asyncio.sleep(wait_s)
            wait_s = min(2.0 * wait_s, LONGEST_WAIT_S)
        instance.models = tuple(model["id"] for model in said.models)
        try:
            traits = known(endpoint, said).traits
        except ValueError as error:  # it may serve all the same
            self.notices.note(endpoint.name, "leaves open what it is", str(error))
        else:
            num_blocks = traits.num_blocks * traits.block_size // BLOCK_SIZE
            instance.traits = replace(traits, block_size=BLOCK_SIZE, num_blocks=num_blocks)
        self._traits_changed(instance)

    async def _sweep(self) -> None:
        for instance in list(self):
            if instance.is_leaving and instance.num_in_flight == 0:
                await self._remove(instance)

    async def _remove(self, instance: Instance) -> None:
        number = instance.number
        if self._places[number] is not instance:
            return
        instance.is_leaving = True
        self._update(instance)
        self._places[number] = None
        ending = [task for task in self._tasks[number] if task is not asyncio.current_task()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await instance.client.close()

    def _scraped(self, number: int) -> None:
        scrape = self[number].scraper.seen(self.clock.now_s)
        metrics = scrape.metrics
        self._num_waiting[number] = metrics.num_waiting
        self._num_running[number] = metrics.num_running
        self._usage[number] = metrics.frac_kv_cache_usage
        self._hits[number] = scrape.frac_prefix_hits
        self._taken_at_s[number] = scrape.taken_at_s
        self._state_changed()

    def _note_health(self, number: int, what: str) -> None:
        instance = self[number]
        self.notices.note(instance.endpoint.name, what)
        self._update(instance)
        if instance.health.is_up and instance.models:  # it may have been started anew, as another
            self._spawn(number, self._ask(instance))

    def _update(self, instance: Instance) -> None:
        is_open = instance.health.is_up and not instance.is_leaving
        if is_open != self._is_open[instance.number]:
            self._is_open[instance.number] = is_open
            self._state_changed()

    def _spawn(self, number: int, coroutine: Coroutine[Any, Any, None]) -> None:
        tasks = self._tasks[number]
        task = asyncio.get_running_loop().create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def check(endpoints: Mapping[str, Endpoint], max_instances: int) -> None:
    """Raise ``ValueError`` where these cannot be a router's endpoints."""
    if not 1 <= len(endpoints) <= max_instances:
        raise ValueError(
            f"there are {len(endpoints)} endpoints, there must be 1 to max_instances ({max_instances})"
        )
    by_url: dict[str, str] = {}
    for name, endpoint in endpoints.items():
        if (other := by_url.setdefault(endpoint.url, name)) != name:
            raise ValueError(f"{endpoint}: endpoint {other!r} has the same url; leave one of them out")
        endpoint.headers()  # raises where its API key is missing
