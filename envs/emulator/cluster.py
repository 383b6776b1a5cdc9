"""An emulated cluster of vLLM V1 engines behind the ``Cluster`` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.cluster import ClusterSnapshot, Completion, Events, FirstToken, InstanceTraits, Request, Slo
from envs.emulator.build import InstanceConfig, build_state, clear
from envs.emulator.engine import advance_all, advance_to_completion, advance_woken
from envs.emulator.failure import flush_cache, slow
from envs.emulator.intake import BAD_HASHES, hand_over, release_slot, take_slot, with_room
from envs.emulator.prefix_cache import count_cached_blocks
from envs.emulator.scrapes import Gauges
from envs.emulator.state import NONE, NUM_EVENTS, NUM_STEP_ROWS, State
from envs.emulator.step_time import decode_step_s, prefill_tokens_per_s
from envs.world import MAX_SLOWDOWN


@njit(cache=True)
def _any_completion(state: State) -> bool:
    for number in range(state.counts[NUM_EVENTS]):  # noqa: SIM110 (plain loops compile fast)
        if state.events[number].is_completion:
            return True
    return False


@njit(cache=True)
def _gather_events(state: State) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Take the events in order of time: whole numbers ``[n, 8]`` and instants ``[n, 3]``.

    The slots of completed requests are free after it.
    """
    num = state.counts[NUM_EVENTS]
    state.counts[NUM_EVENTS] = 0
    whole, instants = np.empty((num, 8), np.int64), np.empty((num, 3), np.float64)
    order = np.argsort(state.events[:num]["at_s"], kind="mergesort")
    for position in range(num):
        event = state.events[order[position]]
        request = state.requests[event.slot]
        row, times = whole[position], instants[position]
        row[0] = request.request_id
        row[1] = event.instance
        row[2] = event.slot
        row[3] = request.num_prompt_tokens
        row[4] = request.num_output_tokens
        row[5] = request.num_cached_tokens
        row[6] = request.num_preemptions
        row[7] = event.is_completion
        times[0] = event.at_s
        times[1] = request.arrived_at_s
        times[2] = request.first_token_at_s
        if event.is_completion:
            release_slot(state, event.slot)
    return whole, instants


@njit(cache=True)
def _advance_and_gather(state: State, until_s: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One call for what most often comes together: entering compiled code costs more than being there."""
    advance_woken(state, until_s)
    return _gather_events(state)


@njit(cache=True)
def _submit(
    state: State,
    index: int,
    now_s: float,
    request_id: int,
    num_prompt_tokens: int,
    num_output_tokens: int,
    arrived_at_s: float,
    hashes: NDArray[np.int64],
    priority: int,
) -> int:
    """Hand a request to an instance; return its slot, or what ``take_slot`` returns instead."""
    slot = take_slot(state, request_id, num_prompt_tokens, num_output_tokens, arrived_at_s, hashes, priority)
    if slot >= 0:
        hand_over(state, slot, index, now_s)
    return slot


class EmulatedCluster:
    """vLLM engines in virtual time.

    Gauges (``snapshot``) are read from every instance at the multiples of ``scrape_interval_s``, so that
    what a router sees is up to that old; of several routers each reads them for itself, that part of the
    interval later than the one before. ``step_log_rows`` > 0 keeps one row for each request in each
    scheduler step, taken with ``take_step_log``. ``event_skipping`` advances decode steps many at once; the
    results are the same to the last bit without it.

    With ``gauges_at_steps`` an instance's gauges change when one of its steps ends, as vLLM's do: a request
    that comes while a step runs is not seen before the next one has ended. Without, a scrape reads what is.
    """

    repeatable = True

    def __init__(
        self,
        instances: Sequence[InstanceConfig],
        block_size: int = 16,
        scrape_interval_s: float = 0.1,
        step_log_rows: int = 0,
        event_skipping: bool = True,
        gauges_at_steps: bool = False,
    ) -> None:
        if not 0.0 < scrape_interval_s < float("inf"):
            raise ValueError(
                f"scrape_interval_s is {scrape_interval_s}, it must be a positive number of seconds"
            )
        self.configs = tuple(instances)
        self.block_size = block_size
        self.scrape_interval_s = scrape_interval_s
        self.gauges_at_steps = gauges_at_steps
        self._state = build_state(
            self.configs, block_size, step_log_rows=step_log_rows, event_skipping=event_skipping
        )
        self._healthy = np.ones(len(self.configs), np.bool_)
        self._traits = [_traits(config, index, block_size) for index, config in enumerate(self.configs)]
        self.reset()

    @property
    def now_s(self) -> float:
        """The instant the cluster has been advanced to."""
        return self._now_s

    @property
    def traits(self) -> list[InstanceTraits]:
        """One entry per instance, in index order."""
        return self._traits

    @property
    def state(self) -> State:
        """The emulator's own memory as of now, for tests and tools; arrays that must grow are replaced."""
        advance_all(self._state, self._now_s)
        return self._state

    @property
    def num_in_flight(self) -> int:
        """Requests submitted and not yet completed."""
        return len(self._slos)

    def reset(self, rng: np.random.Generator | None = None, num_routers: int = 1) -> None:
        """Go back to time 0 with every instance idle and every cache empty; nothing is left to ``rng``."""
        if num_routers < 1:
            raise ValueError(f"num_routers is {num_routers}, it must be at least 1")
        clear(self._state)
        self._now_s = 0.0
        self._slos: dict[int, Slo] = {}  # request slot -> what its user accepts
        self._scrape_period_s = self.scrape_interval_s / num_routers
        self._num_scrapes = 0
        self._scraped = [(0, self._measured())] * num_routers  # each router's last: number, gauges

    def submit(self, request: Request, instance_index: int) -> None:
        """Put a request into an instance's waiting queue now.

        Raises ``IndexError`` for an instance that does not exist and ``ValueError`` for a request that it
        could never serve. An answer that would outgrow ``max_model_len`` is cut there, as vLLM does.
        """
        self._check(request, instance_index)
        slot = NONE
        while slot == NONE:
            slot = _submit(
                self._state,
                instance_index,
                self._now_s,
                request.request_id,
                request.num_prompt_tokens,
                request.num_output_tokens,
                request.arrived_at_s,
                request.block_hashes,
                request.priority,
            )
            if slot == NONE:
                self.make_room(len(request.block_hashes))
        if slot == BAD_HASHES:
            raise ValueError(f"request {request.request_id} has block hashes that are not positive")
        self._slos[slot] = request.slo

    def _check_index(self, instance_index: int) -> None:
        if not 0 <= instance_index < len(self.configs):
            raise IndexError(f"instance {instance_index} does not exist: the cluster has {len(self.configs)}")

    def _check(self, request: Request, instance_index: int) -> None:
        self._check_index(instance_index)
        max_model_len = self.configs[instance_index].max_model_len
        if request.num_prompt_tokens >= max_model_len:
            raise ValueError(
                f"request {request.request_id} has {request.num_prompt_tokens} prompt tokens, instance"
                f" {instance_index} takes fewer than its max_model_len of {max_model_len}:"
                " drop or clip such requests in the workload, or raise max_model_len"
            )

    def make_room(self, num_hashes: int) -> None:
        """See to it that one more request with so many block hashes finds room; ``state`` may change."""
        self._state = with_room(self._state, num_hashes)

    def advance_to(self, time_s: float, stop_at_completion: bool = False) -> Events:
        """Let time pass until ``time_s``, or, if asked, only until the first completion.

        ``time_s`` may be infinite with ``stop_at_completion``; with nothing in flight no time passes then.
        Raises ``ValueError`` for an instant that is past or not a number.
        """
        if not time_s >= self._now_s or (time_s == np.inf and not stop_at_completion):
            raise ValueError(f"cannot advance to {time_s} s: the cluster is at {self._now_s} s")
        if time_s == np.inf and not self.num_in_flight:
            return Events([], [])
        return self._advance(time_s, stop_at_completion)

    def _advance(self, time_s: float, stop_at_completion: bool) -> Events:
        if stop_at_completion:
            return self._advance_to_completion(time_s)
        scrape = self._last_scrape_by(time_s)
        unseen = scrape - len(self._scraped)  # what these and those before it brought would be overwritten
        for number in range(max(self._num_scrapes, unseen) + 1, scrape + 1):
            self._scrape(number)
        return self._run_engines(time_s, False)

    def _run_engines(self, until_s: float, stop_at_completion: bool) -> Events:
        """Let the engines run, and nobody scrape."""
        if stop_at_completion:
            self._now_s = advance_to_completion(self._state, until_s)
            return self._events(*_gather_events(self._state))
        self._now_s = until_s
        return self._events(*_advance_and_gather(self._state, until_s))

    def _advance_to_completion(self, time_s: float) -> Events:
        while True:
            scrape = self._num_scrapes + 1
            scrape_at_s = scrape * self._scrape_period_s
            self._now_s = advance_to_completion(self._state, min(scrape_at_s, time_s))
            if self._now_s == scrape_at_s:
                self._scrape(scrape)
            if self._now_s >= time_s or _any_completion(self._state):
                return self._events(*_gather_events(self._state))

    def drain(self) -> Events:
        """Let time pass until nothing is in flight."""
        events = Events([], [])
        while self.num_in_flight:
            passed = self.advance_to(np.inf, stop_at_completion=True)
            events.first_tokens.extend(passed.first_tokens)
            events.completions.extend(passed.completions)
        return events

    def snapshot(self, router: int = 0) -> ClusterSnapshot:
        """What a router's last scrape of each instance said."""
        number, gauges = self._scraped[router]
        age_s = np.full(len(self.configs), self._now_s - number * self._scrape_period_s)
        return ClusterSnapshot(*gauges, age_s=age_s, healthy=self._healthy)

    def slow(self, instance_index: int, factor: float) -> None:
        """Let the steps that an instance chooses from now on take ``factor`` times as long."""
        self._check_index(instance_index)
        if not 1.0 <= factor <= MAX_SLOWDOWN:
            raise ValueError(f"factor is {factor}, it must lie in [1, {MAX_SLOWDOWN:g}]")
        slow(self.state, instance_index, factor, self._now_s)

    def flush_cache(self, instance_index: int) -> None:
        """Let an instance forget its prefix cache, also what blocks in use hold; no request is disturbed."""
        self._check_index(instance_index)
        flush_cache(self.state, instance_index)

    def num_exact_hit_tokens(self, request: Request) -> NDArray[np.int64]:
        """Prompt tokens of ``request`` that each instance's cache holds right now, ``[num_instances]``."""
        num_blocks = np.zeros(len(self.configs), np.int64)
        usable = (request.num_prompt_tokens - 1) // self.block_size
        count_cached_blocks(self.state, request.block_hashes[:usable], num_blocks)
        return num_blocks * self.block_size

    def counters(self) -> Mapping[str, float]:
        """Nothing goes otherwise than it should."""
        return {}

    def close(self) -> None:
        """Nothing is to be let go of."""

    def take_step_log(self) -> NDArray[np.void]:
        """Return the STEP_DTYPE rows kept since the last call, and forget them."""
        counts = self.state.counts
        rows = self._state.step_log[: counts[NUM_STEP_ROWS]].copy()
        counts[NUM_STEP_ROWS] = 0
        return rows

    def _scrape(self, number: int) -> None:
        """Bring every instance up to the instant of a scrape, and take it."""
        advance_all(self._state, number * self._scrape_period_s)
        self._num_scrapes = number
        self._scraped[number % len(self._scraped)] = number, self._measured()

    def _measured(self) -> Gauges:
        seen, of = self._state.instances, "told" if self.gauges_at_steps else "num"
        return Gauges(
            seen[f"{of}_waiting"].copy(),
            seen[f"{of}_running"].copy(),
            1.0 - seen[f"{of}_free_blocks"] / seen["num_blocks"],
            seen[f"{of}_hit_tokens"] / np.maximum(seen[f"{of}_queried_tokens"], 1),
        )

    def _last_scrape_by(self, time_s: float) -> int:
        number = int(time_s / self._scrape_period_s) + 1  # rounding: the quotient may be off by one
        while number * self._scrape_period_s > time_s:
            number -= 1
        return number

    def _events(self, whole: NDArray[np.int64], instants: NDArray[np.float64]) -> Events:
        events = Events([], [])
        for (request_id, instance, slot, prompt, output, cached, preemptions, is_completion), (
            at_s,
            arrived_at_s,
            first_token_at_s,
        ) in zip(whole.tolist(), instants.tolist(), strict=True):
            if is_completion:
                events.completions.append(
                    Completion(
                        request_id,
                        instance,
                        arrived_at_s,
                        first_token_at_s,
                        at_s,
                        prompt,
                        output,
                        cached,
                        preemptions,
                        self._slos.pop(slot),
                    )
                )
            else:
                events.first_tokens.append(FirstToken(request_id, instance, at_s))
        return events


def _traits(config: InstanceConfig, index: int, block_size: int) -> InstanceTraits:
    law = config.profile.law
    return InstanceTraits(
        name=f"{config.profile.gpu}-{index}",
        num_blocks=config.num_blocks,
        block_size=block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        prefix_caching=config.prefix_caching,
        prefill_tokens_per_s=prefill_tokens_per_s(law, config.max_num_batched_tokens),
        decode_step_s=decode_step_s(law),
    )
