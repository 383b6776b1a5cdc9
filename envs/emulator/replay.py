"""Replay a request stream under a compiled routing rule: the emulator's bare loop, no Python per request.

    ledger = replay(cluster, [stream], least_in_flight)

The ledger is the one that driving the cluster through ``submit`` and ``advance_to`` with the same decisions
would give. Memory is bounded by the requests in flight, the ledger and one piece of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.borrow import borrowed
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.disturbed import DisturbedCluster
from envs.emulator.engine import advance_all, advance_woken
from envs.emulator.intake import hand_over, release_slot, take_slot
from envs.emulator.state import NONE, NUM_EVENTS, State

Rule = Callable[[State, int, np.random.Generator], int]
"""See ``envs.emulator.rules``; must be compiled with ``@njit``."""


class Stream(NamedTuple):
    """Requests in order of arrival, or a piece of such a stream."""

    arrived_at_s: NDArray[np.float64]
    num_prompt_tokens: NDArray[np.int64]
    num_output_tokens: NDArray[np.int64]
    hashes: NDArray[np.int64]
    """Block hashes of all requests, one after another."""
    hash_offsets: NDArray[np.int64]
    """``[num_requests + 1]``: where each request's hashes begin and the last one's end."""


class Ledger(NamedTuple):
    """What became of each request, in the order of the stream."""

    instance: NDArray[np.int64]
    first_token_at_s: NDArray[np.float64]
    finished_at_s: NDArray[np.float64]
    num_cached_tokens: NDArray[np.int64]
    num_preemptions: NDArray[np.int64]


def replay(cluster: EmulatedCluster, streams: Iterable[Stream], rule: Rule, seed: int = 0) -> Ledger:
    """Reset a cluster, route a stream to it, let it drain; return what became of each request.

    Args:
        cluster: Is left at the last completion, with the caches and counters it has then.
        streams: Pieces of one stream; only one at a time is held.
        rule: Chooses an instance for each request.
        seed: Of the generator that the rule is given.

    Raises:
        ValueError: A piece of the stream is out of order or holds a request that not every instance could
            serve; or the cluster has a world, which needs more than the bare loop.
        IndexError: The rule chose an instance that does not exist.
    """
    if isinstance(cluster, DisturbedCluster):
        raise ValueError("the cluster has a world, which a replay would pass over: leave world out")
    cluster.reset()
    rng = np.random.default_rng(seed)
    ledger = _empty_ledger(0)
    num_routed, now_s = 0, 0.0
    for stream in streams:
        _check(stream, cluster, now_s)
        num = len(stream.arrived_at_s)
        if num_routed + num > len(ledger.instance):
            ledger = _with_rows(ledger, max(num_routed + num, len(ledger.instance) * 3 // 2))
        at = 0
        while at < num:
            at = _play(cluster.state, stream, at, num_routed, rule, rng, ledger)
            if at < num:
                cluster.make_room(int(stream.hash_offsets[at + 1] - stream.hash_offsets[at]))
        num_routed += num
        now_s = float(stream.arrived_at_s[-1]) if num else now_s
    _drain(cluster.state, ledger)
    ledger = _with_rows(ledger, num_routed)
    cluster.advance_to(max(now_s, float(ledger.finished_at_s.max(initial=0.0))))
    return ledger


@njit()  # not cached: compiled anew for each rule
def _play(
    state: State,
    stream: Stream,
    first: int,
    first_id: int,
    rule: Rule,
    rng: np.random.Generator,
    ledger: Ledger,
) -> int:
    """Route a stream's requests from ``first`` on; return the first for which there is no room."""
    state = borrowed(state)
    num_instances = state.instances.shape[0]
    for number in range(first, stream.arrived_at_s.shape[0]):
        now_s = stream.arrived_at_s[number]
        advance_woken(state, now_s)
        _settle(state, ledger)
        slot = take_slot(
            state,
            first_id + number,
            stream.num_prompt_tokens[number],
            stream.num_output_tokens[number],
            now_s,
            stream.hashes[stream.hash_offsets[number] : stream.hash_offsets[number + 1]],
            0,
        )
        if slot == NONE:
            return number
        index = rule(state, slot, rng)
        if not 0 <= index < num_instances:
            raise IndexError("the rule chose an instance that does not exist")
        ledger.instance[first_id + number] = index
        hand_over(state, slot, index, now_s)
    return stream.arrived_at_s.shape[0]


@njit(cache=True)
def _drain(state: State, ledger: Ledger) -> None:
    advance_all(state, np.inf)
    _settle(state, ledger)


@njit(cache=True)
def _settle(state: State, ledger: Ledger) -> None:
    """Write the completions into the ledger and forget the events."""
    for number in range(state.counts[NUM_EVENTS]):
        event = state.events[number]
        if event.is_completion:
            request = state.requests[event.slot]
            row = request.request_id
            ledger.first_token_at_s[row] = request.first_token_at_s
            ledger.finished_at_s[row] = event.at_s
            ledger.num_cached_tokens[row] = request.num_cached_tokens
            ledger.num_preemptions[row] = request.num_preemptions
            release_slot(state, event.slot)
    state.counts[NUM_EVENTS] = 0


def _check(stream: Stream, cluster: EmulatedCluster, now_s: float) -> None:
    """Refuse what ``EmulatedCluster.submit`` would refuse."""
    shortest = min(config.max_model_len for config in cluster.configs)
    if not np.all(np.diff(stream.arrived_at_s, prepend=now_s) >= 0.0):
        raise ValueError(f"the stream's arrivals must not fall, nor lie before {now_s} s")
    if np.any(stream.num_prompt_tokens < 1) or np.any(stream.num_output_tokens < 1):
        raise ValueError("every request of the stream must have at least 1 prompt and 1 output token")
    if np.any(stream.num_prompt_tokens >= shortest):
        raise ValueError(
            f"the stream has a prompt of {stream.num_prompt_tokens.max()} tokens, instances take fewer than"
            f" their max_model_len, here {shortest}: drop or clip such requests, or raise max_model_len"
        )
    if np.any(stream.hashes <= 0):
        raise ValueError("the stream has block hashes that are not positive")


def _empty_ledger(num_rows: int) -> Ledger:
    return Ledger(
        instance=np.full(num_rows, NONE, np.int64),
        first_token_at_s=np.full(num_rows, np.nan),
        finished_at_s=np.full(num_rows, np.nan),
        num_cached_tokens=np.zeros(num_rows, np.int64),
        num_preemptions=np.zeros(num_rows, np.int64),
    )


def _with_rows(ledger: Ledger, num_rows: int) -> Ledger:
    """A copy of the ledger's first rows, filled up with empty ones."""
    resized = _empty_ledger(num_rows)
    for old, new in zip(ledger, resized, strict=True):
        num = min(num_rows, len(old))
        new[:num] = old[:num]
    return resized
