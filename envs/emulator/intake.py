"""Request slots and their block hashes: how requests enter the emulator's memory and leave it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.engine import advance_instance
from envs.emulator.state import (
    EVENT_DTYPE,
    NONE,
    NUM_FREE_SLOTS,
    NUM_HASHES,
    REQUEST_DTYPE,
    State,
)
from envs.emulator.waiting import enqueue

BAD_HASHES = -2


@njit(cache=True, forceinline=True)
def take_slot(
    state: State,
    request_id: int,
    num_prompt_tokens: int,
    num_output_tokens: int,
    arrived_at_s: float,
    hashes: NDArray[np.int64],
    priority: int,
) -> int:
    """Write a request into a free slot and return it.

    Returns ``NONE`` where there is no room for it (``with_room`` makes some) and ``BAD_HASHES`` where a hash
    is not positive.
    """
    first_hash = state.counts[NUM_HASHES]
    if state.counts[NUM_FREE_SLOTS] == 0 or first_hash + hashes.shape[0] > state.hashes.shape[0]:
        return NONE
    for position in range(hashes.shape[0]):
        if hashes[position] <= 0:
            return BAD_HASHES
        state.hashes[first_hash + position] = hashes[position]
    state.counts[NUM_HASHES] += hashes.shape[0]
    state.counts[NUM_FREE_SLOTS] -= 1
    slot = state.free_slots[state.counts[NUM_FREE_SLOTS]]
    request = state.requests[slot]
    request.request_id = request_id
    request.num_prompt_tokens = num_prompt_tokens
    request.num_output_tokens = num_output_tokens
    request.num_generated_tokens = 0
    request.num_computed_tokens = 0
    request.num_pending_tokens = 0
    request.last_sampling_step = NONE
    request.num_scheduled_tokens = 0
    request.priority = priority
    request.num_held_blocks = 0
    request.num_cached_blocks = 0
    request.num_cached_tokens = 0
    request.num_preemptions = 0
    request.first_hash = first_hash
    request.num_hashes = hashes.shape[0]
    request.row = NONE
    request.arrived_at_s = arrived_at_s
    request.first_token_at_s = np.nan
    return slot


@njit(cache=True, forceinline=True)
def hand_over(state: State, slot: int, index: int, now_s: float) -> None:
    """Put the request in a slot into an instance's waiting queue; cut its answer at ``max_model_len``."""
    advance_instance(state, index, now_s)
    instance, request = state.instances[index], state.requests[slot]
    request.num_output_tokens = min(
        request.num_output_tokens, instance.max_model_len - request.num_prompt_tokens
    )
    if instance.num_running + instance.num_waiting == 0:
        instance.free_at_s = max(instance.free_at_s, now_s)
    enqueue(state, instance, slot)
    state.wakes_at_s[index] = now_s


@njit(cache=True, forceinline=True)
def release_slot(state: State, slot: int) -> None:
    """Free the slot of a request that is done."""
    state.requests[slot].num_hashes = 0
    state.free_slots[state.counts[NUM_FREE_SLOTS]] = slot
    state.counts[NUM_FREE_SLOTS] += 1


def with_room(state: State, num_hashes: int) -> State:
    """Return the state with a free slot and room for ``num_hashes`` more hashes."""
    if state.counts[NUM_FREE_SLOTS] == 0:
        state = _more_slots(state)
    if state.counts[NUM_HASHES] + num_hashes > len(state.hashes):
        num_used = int(state.requests["num_hashes"].sum())
        size = len(state.hashes)
        while 2 * (num_used + num_hashes) > size:
            size *= 2
        packed = np.zeros(size, np.int64)
        _pack_hashes(state, packed)
        state = state._replace(hashes=packed)
    return state


def _more_slots(state: State) -> State:
    """Double the slots; none of the old ones is free."""
    num_old = len(state.requests)
    requests = np.zeros(2 * num_old, REQUEST_DTYPE)
    requests[:num_old] = state.requests
    free_slots = np.zeros(2 * num_old, np.int64)
    free_slots[:num_old] = np.arange(2 * num_old - 1, num_old - 1, -1)
    state.counts[NUM_FREE_SLOTS] = num_old
    events = np.zeros(4 * num_old, EVENT_DTYPE)
    events[: len(state.events)] = state.events
    return state._replace(requests=requests, free_slots=free_slots, events=events)


@njit(cache=True, forceinline=True)
def _pack_hashes(state: State, packed: NDArray[np.int64]) -> None:
    """Copy the hashes of the requests in flight, and no others."""
    top = 0
    for slot in range(state.requests.shape[0]):
        request = state.requests[slot]
        for position in range(request.num_hashes):
            packed[top + position] = state.hashes[request.first_hash + position]
        request.first_hash = top
        top += request.num_hashes
    state.counts[NUM_HASHES] = top
