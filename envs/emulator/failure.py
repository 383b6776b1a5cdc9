"""What befalls an instance from outside: its process dies, its prefix cache is flushed, it slows down.

Each takes the state as of now: every instance must have been advanced to the present.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.build import clear_instance
from envs.emulator.intake import release_slot
from envs.emulator.state import NO_HASH, UNCACHED, State
from envs.emulator.waiting import take_head


def take_all(state: State, index: int) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Kill an instance's engine: give it the memory of one that has just started.

    Its counters begin anew, as those of a new process do; its ``slowdown`` is the machine's and stays.

    Returns:
        The slots, free again, of the requests that it held, those that ran first, then those that waited in
        their order; and a copy of their records, REQUEST_DTYPE ``[num_requests]``.
    """
    slots = _slots_of(state, index)
    records = state.requests[slots]
    _release(state, slots)
    clear_instance(state, index)
    return slots, records


@njit(cache=True)
def _release(state: State, slots: NDArray[np.int64]) -> None:
    for slot in slots:
        release_slot(state, slot)


@njit(cache=True)
def _slots_of(state: State, index: int) -> NDArray[np.int64]:
    """Empty the waiting queue; return what runs and what waited."""
    instance = state.instances[index]
    num_running, first = instance.num_running, instance.first_row
    slots = np.empty(num_running + instance.num_waiting, np.int64)
    slots[:num_running] = state.running[first : first + num_running]
    for position in range(num_running, slots.shape[0]):
        slots[position] = instance.waiting_head
        take_head(state, instance)
    return slots


@njit(cache=True)
def slow(state: State, index: int, factor: float, now_s: float) -> None:
    """Let the steps that an instance chooses from now on take ``factor`` times as long as by its law."""
    instance = state.instances[index]
    instance.slowdown = factor
    instance.num_decode_steps = 0  # the next step is not like the last
    instance.looks_from_step = 0
    state.wakes_at_s[index] = now_s


@njit(cache=True)
def flush_cache(state: State, index: int) -> None:
    """Let an instance forget every block hash, also of blocks in use; no request loses a block.

    vLLM's ``reset_prefix_cache`` (vllm/v1/core/block_pool.py) does this to an idle engine, and refuses
    others. Blocks keep their place in the eviction order.
    """
    instance = state.instances[index]
    first_slot, first_block = instance.first_cache_slot, instance.first_block
    for slot in range(first_slot, first_slot + instance.cache_slot_mask + 1):
        state.cache_slots[slot].block_hash = NO_HASH
    instance.num_loose_blocks = 0
    instance.may_have_orphans = False
    for block in range(first_block, first_block + instance.num_blocks):
        state.blocks[block].kind = UNCACHED
