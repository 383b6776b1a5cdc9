"""An emulated cluster in which things go wrong as a ``World`` says, or as its methods are called.

The engines are those of ``EmulatedCluster``. Around them is an agenda: the world's events, requests on their
way to an instance, and scrapes. Time passes from one entry to the next, so that each acts at its instant,
however ``advance_to`` is called. At one instant the world's events come first, then scrapes, then requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from math import inf, nan

import numpy as np

from envs.cluster import ClusterSnapshot, Completion, Events, Request
from envs.emulator.build import InstanceConfig, clear_instance
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.engine import advance_all
from envs.emulator.failure import take_all
from envs.emulator.reports import Reports
from envs.emulator.scrapes import Scrapes
from envs.world import LAG_SCRAPES, SLOW, World, WorldEvent

UP, STARTING, DOWN, DRAINING, ABSENT = "up", "starting", "down", "draining", "absent"
INSTANCE_FAILED, CONNECTION_REFUSED = "instance failed", "connection refused"
"""What ``Completion.failure`` says of a request that was lost, and of one that reached nobody."""

_WORLD, _SCRAPE, _REQUEST = 0, 1, 2  # what comes first at one instant


class DisturbedCluster(EmulatedCluster):
    """vLLM engines in virtual time, with failures, delays and scrapes that are lost.

    A request that reaches an instance that does not serve fails there and then; one that an instance held
    when its process died fails at that instant. Both are learned one way later. Answers that were on their
    way still come, and a request on its way finds the instance as it is when it gets there.

    Ids of requests in flight must differ.
    """

    def __init__(
        self,
        instances: Sequence[InstanceConfig],
        world: World | None = None,
        block_size: int = 16,
        scrape_interval_s: float = 0.1,
        step_log_rows: int = 0,
        event_skipping: bool = True,
        gauges_at_steps: bool = False,
    ) -> None:
        self.world = world if world is not None else World()
        self.world.check(len(instances))
        self._delay_s = np.broadcast_to(
            np.asarray(self.world.network_delay_s, np.float64), len(instances)
        ).tolist()
        super().__init__(
            instances, block_size, scrape_interval_s, step_log_rows, event_skipping, gauges_at_steps
        )

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose end is not yet learned."""
        return len(self._ways_back_s)

    @property
    def statuses(self) -> tuple[str, ...]:
        """Of each instance: ``up``, ``starting``, ``down``, ``draining`` or ``absent``."""
        return tuple(
            ABSENT if status == DRAINING and not self._is_busy(index) else status
            for index, status in enumerate(self._statuses)
        )

    def reset(self, rng: np.random.Generator | None = None, num_routers: int = 1) -> None:
        """Go back to time 0, with the world as it is then; without ``rng`` chance is that of seed 0."""
        super().reset(rng, num_routers)
        num = len(self.configs)
        rng = rng if rng is not None else np.random.default_rng(0)
        scrape_rng, self._network_rng, *self._failure_rngs = rng.spawn(2 + num)
        self._ways_back_s: dict[int, float] = {}  # request_id -> how long its answer's way is
        self._reports = Reports()
        self._learned = Events([], [])  # what the next ``_advance`` returns: not lost where an entry raises
        self._agenda: list[tuple[float, int, int, Callable[[], None]]] = []
        self._num_entries = 0
        self._statuses = [ABSENT] * num
        self._num_changes = [0] * num  # of an instance's status: tells whether an entry still means it
        for index in range(num):
            if index not in self.world.absent:
                self._come_up(index)
        self._scrape_lag_s = np.full(num, self.world.scrape_lag_s)
        for event in self.world.events:
            self.plan(event)
        self._act()
        self._scrapes = Scrapes(
            self._measured(),
            self._serving(),
            num_routers,
            self.scrape_interval_s,
            self.world.frac_scrapes_lost,
            scrape_rng,
        )
        self._enter(self._scrapes.next_at_s, _SCRAPE, self._take_scrape)

    def plan(self, event: WorldEvent) -> None:
        """Let something happen later in this episode that the world's schedule does not say.

        Raises ``ValueError`` for an instant that is past; where the instance is then in a state that does not
        allow it, so does the advance that gets there.
        """
        self._check_index(event.instance)
        if event.at_s < self._now_s:
            raise ValueError(f"cannot plan {event.what} at {event.at_s} s: the cluster is at {self._now_s} s")
        amounts = {SLOW: (event.factor,), LAG_SCRAPES: (event.lag_s,)}.get(event.what, ())
        self._enter(event.at_s, _WORLD, partial(getattr(self, event.what), event.instance, *amounts))

    def submit(self, request: Request, instance_index: int) -> None:
        """Send a request to an instance now; it fails if that does not serve when the request gets there.

        Raises ``IndexError`` and ``ValueError`` as ``EmulatedCluster`` does, and ``ValueError`` for a request
        whose id is that of one in flight.
        """
        self._check(request, instance_index)
        if request.request_id in self._ways_back_s:
            raise ValueError(f"request {request.request_id} is in flight already: ids must differ")
        if (request.block_hashes <= 0).any():
            raise ValueError(f"request {request.request_id} has block hashes that are not positive")
        there_s = back_s = self._delay_s[instance_index]
        if self.world.network_jitter_s > 0.0:
            longer_s = self.world.network_jitter_s * self._network_rng.random(2)
            there_s, back_s = there_s + float(longer_s[0]), back_s + float(longer_s[1])
        self._ways_back_s[request.request_id] = back_s
        if there_s > 0.0:
            self._enter(self._now_s + there_s, _REQUEST, partial(self._arrive, request, instance_index))
        else:
            self._arrive(request, instance_index)

    def snapshot(self, router: int = 0) -> ClusterSnapshot:
        """What a router knows of each instance from its scrapes."""
        return self._scrapes.snapshot(router, self._now_s)

    def fail(self, instance_index: int) -> None:
        """Kill an instance's process, with its cache and all its requests."""
        self._require(instance_index, "fail", UP, STARTING, DRAINING)
        slots, records = take_all(self.state, instance_index)
        for slot, record in zip(slots.tolist(), records, strict=True):
            completion = Completion(
                int(record["request_id"]),
                instance_index,
                float(record["arrived_at_s"]),
                float(record["first_token_at_s"]),
                nan,
                int(record["num_prompt_tokens"]),
                0,
                int(record["num_cached_tokens"]),
                int(record["num_preemptions"]),
                self._slos.pop(slot),
                INSTANCE_FAILED,
            )
            self._send(completion, self._now_s)
        self._change(instance_index, ABSENT if self._statuses[instance_index] == DRAINING else DOWN)

    def restart(self, instance_index: int) -> None:
        """Start a process where one failed; it serves after the cold start."""
        self._require(instance_index, "restart", DOWN)
        self._start(instance_index)

    def add(self, instance_index: int) -> None:
        """Start an absent instance; it serves after the cold start. One that drains is kept as it is."""
        self._require(instance_index, "add", ABSENT, DRAINING)
        if self.statuses[instance_index] == DRAINING:
            self._come_up(instance_index)
        else:
            clear_instance(self.state, instance_index)
            self._start(instance_index)

    def remove(self, instance_index: int) -> None:
        """Send an instance nothing new; it finishes what it has and is gone."""
        self._require(instance_index, "remove", UP, STARTING, DOWN)
        self._change(instance_index, DRAINING)

    def lag_scrapes(self, instance_index: int, lag_s: float) -> None:
        """Let what is scraped of an instance from now on reach routers so much later."""
        self._check_index(instance_index)
        if not 0.0 <= lag_s < inf:
            raise ValueError(f"lag_s is {lag_s}, it must be a number of seconds from 0")
        self._scrape_lag_s[instance_index] = lag_s

    def _require(self, index: int, what: str, *wanted: str) -> None:
        self._check_index(index)
        status = self.statuses[index]
        if status not in wanted:
            raise ValueError(
                f"cannot {what} instance {index} at {self._now_s} s: it is {status}, it must be"
                f" {' or '.join(wanted)}"
            )

    def _is_busy(self, index: int) -> bool:
        instance = self._state.instances[index]
        return bool(instance["num_running"] + instance["num_waiting"] > 0)

    def _serving(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([status == UP for status in self._statuses])

    def _change(self, index: int, status: str) -> None:
        self._statuses[index] = status
        self._num_changes[index] += 1

    def _start(self, index: int) -> None:
        self._change(index, STARTING)
        if self.world.cold_start_s > 0.0:
            self._enter_unless_changed(self.world.cold_start_s, index, self._come_up)
        else:
            self._come_up(index)

    def _come_up(self, index: int) -> None:
        self._change(index, UP)
        mean_s = self.world.mean_time_to_failure_s
        if mean_s is not None:
            after_s = float(self._failure_rngs[index].exponential(mean_s))
            self._enter_unless_changed(after_s, index, self._break_down)

    def _break_down(self, index: int) -> None:
        self.fail(index)
        self._enter_unless_changed(self.world.downtime_s, index, self._start)

    def _enter(self, at_s: float, rank: int, act: Callable[[], None]) -> None:
        self._num_entries += 1
        heappush(self._agenda, (at_s, rank, self._num_entries, act))

    def _enter_unless_changed(self, after_s: float, index: int, act: Callable[[int], None]) -> None:
        """Let something happen to an instance, if nothing else has changed its status by then."""
        entry = partial(self._act_unless_changed, index, self._num_changes[index], act)
        self._enter(self._now_s + after_s, _WORLD, entry)

    def _act_unless_changed(self, index: int, num_changes: int, act: Callable[[int], None]) -> None:
        if self._num_changes[index] == num_changes:
            act(index)

    def _act(self) -> None:
        """Do what is due."""
        while self._agenda and self._agenda[0][0] <= self._now_s:
            heappop(self._agenda)[3]()

    def _take_scrape(self) -> None:
        advance_all(self._state, self._now_s)
        self._scrapes.take(self._measured(), self._serving(), self._scrape_lag_s)
        self._enter(self._scrapes.next_at_s, _SCRAPE, self._take_scrape)

    def _arrive(self, request: Request, index: int) -> None:
        if self._statuses[index] == UP:
            super().submit(request, index)
            return
        completion = Completion(
            request.request_id,
            index,
            request.arrived_at_s,
            nan,
            nan,
            request.num_prompt_tokens,
            0,
            0,
            0,
            request.slo,
            CONNECTION_REFUSED,
        )
        self._send(completion, self._now_s)

    def _send(self, completion: Completion, ended_at_s: float) -> None:
        self._reports.send_completion(completion, ended_at_s, self._ways_back_s[completion.request_id])

    def _advance(self, time_s: float, stop_at_completion: bool) -> Events:
        events = self._learned
        while True:
            until_s = min(time_s, self._agenda[0][0])
            if stop_at_completion:
                until_s = min(until_s, self._reports.next_completion_at_s)
            passed = self._run_engines(until_s, stop_at_completion)
            for token in passed.first_tokens:
                self._reports.send_first_token(token, self._ways_back_s[token.request_id])
            for completion in passed.completions:
                self._send(completion, completion.finished_at_s)
            self._act()
            learned = self._reports.take(self._now_s)
            events.first_tokens.extend(learned.first_tokens)
            events.completions.extend(learned.completions)
            if self._now_s >= time_s or (stop_at_completion and events.completions):
                for completion in events.completions:
                    del self._ways_back_s[completion.request_id]
                self._learned = Events([], [])
                return events
