"""Event skipping: many decode steps of one instance at once, and no step before somebody asks.

Once everybody who runs decodes and nobody who waits may join, every step is like the one before it: each
request gets a token, and every ``block_size`` steps a block. So as long as nobody comes to its last token and
the blocks suffice, what happens to a request in k steps follows from k, without a look at each. Only
two things are done step by step: the clock, since a step is a little longer than the one before it, and the
handing out of blocks, in the order in which the steps would do it, since that order decides which cached
block is evicted. So the state after it, times included, is the one that step after step leads to, to the last
bit; ``tests/envs/emulator/test_skip.py`` holds the two against each other.

How far that goes is looked up once for each such phase (``look_ahead``). Until then nothing happens that
anybody could see but blocks and counters, so that the instance need not be looked at (``quiet_until_s``).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from envs.emulator.kv_cache import cache_full_blocks, grow
from envs.emulator.scheduler import tell
from envs.emulator.state import NONE, InstanceRecord, State
from envs.emulator.step_time import step_time_s

FEWEST_STEPS = 3
"""Skipping fewer costs more than it saves: each request is looked at twice."""
ROUNDING = 1e-9
"""Of a sum of step times; far more than it can be."""


@njit(cache=True, forceinline=True)
def only_decodes(instance: InstanceRecord) -> bool:
    """Whether the next steps are like the last ones, until ``horizon_step`` once that is known."""
    return (
        instance.event_skipping
        and instance.num_decode_steps > 1
        and instance.num_in_flight == instance.max_in_flight
        and (instance.num_waiting == 0 or instance.num_running == instance.max_num_seqs)
    )


@njit(cache=True)
def look_ahead(state: State, index: int) -> None:
    """Find how many steps of an instance that only decodes are alike: write ``horizon_step``."""
    instance = state.instances[index]
    block_size, is_async = instance.block_size, instance.max_in_flight > 1
    first = instance.first_row
    # Blocks: at the worst everybody takes one in the same step.
    num_steps = (instance.num_free_blocks // instance.num_running - 1) * block_size
    for at in range(instance.num_running):
        request = state.requests[state.running[first + at]]
        num_computed = request.num_computed_tokens
        num_steps = min(num_steps, request.num_prompt_tokens + request.num_output_tokens - 1 - num_computed)
        num_held = request.num_held_blocks
        to_fill = num_held * block_size - num_computed
        num_full = num_held if to_fill == 0 and not is_async else num_held - 1
        if (
            request.num_generated_tokens == 0
            or request.num_pending_tokens != instance.max_in_flight
            or not 0 <= to_fill < block_size
            or (instance.prefix_caching and request.num_cached_blocks != num_full)
        ):
            num_steps = 0
    instance.horizon_step = instance.num_steps + num_steps
    instance.looks_from_step = max(instance.horizon_step, instance.num_steps + 2 * FEWEST_STEPS)


@njit(cache=True, forceinline=True)
def _last_duration_s(instance: InstanceRecord) -> float:
    """How long the last step chosen takes: the next ones, with more context, take no less.

    (After a change of the slowdown steps are taken one by one until the last one chosen is of the new kind.)
    """
    if instance.max_in_flight == 1:
        return instance.step_ends_at_s - instance.free_at_s
    return instance.next_step_ends_at_s - instance.step_ends_at_s


@njit(cache=True, forceinline=True)
def worth_skipping(instance: InstanceRecord, until_s: float) -> bool:
    """Whether a good number of steps before the horizon end before ``until_s``."""
    return (
        instance.horizon_step - instance.num_steps >= FEWEST_STEPS
        and instance.step_ends_at_s + (FEWEST_STEPS - 1) * _last_duration_s(instance) < until_s
    )


@njit(cache=True, forceinline=True)
def quiet_until_s(instance: InstanceRecord) -> float:
    """An instant before which an instance that only decodes reaches no step past its horizon."""
    num_steps = max(instance.horizon_step - instance.num_steps, 0)
    return instance.step_ends_at_s + num_steps * _last_duration_s(instance) * (1.0 - ROUNDING)


@njit(cache=True)
def skip_decodes(state: State, index: int, until_s: float) -> None:
    """End steps and choose the next ones, as long as they end before ``until_s`` and the horizon allows."""
    instance = state.instances[index]
    block_size, is_async = instance.block_size, instance.max_in_flight > 1
    first, num_running = instance.first_row, instance.num_running
    most_steps = instance.horizon_step - instance.num_steps
    context = 0.0
    # Requests by the number of steps until they need a block; each list in running order.
    head = np.full(block_size, NONE, np.int64)
    for at in range(num_running - 1, -1, -1):
        request = state.requests[state.running[first + at]]
        to_fill = request.num_held_blocks * block_size - request.num_computed_tokens
        state.next_alike[first + at] = head[to_fill]
        head[to_fill] = at
        context += request.num_computed_tokens + 1

    # The clock. This loop writes to no array, so that what is the same in each step is computed once.
    num_done = 0
    free_at_s, ends_at_s = instance.free_at_s, instance.step_ends_at_s
    next_ends_at_s = instance.next_step_ends_at_s
    busy_s = instance.busy_s
    while num_done < most_steps and ends_at_s < until_s:
        free_at_s = ends_at_s  # the step that runs ends, and one is chosen
        duration_s = step_time_s(instance, 0, 0.0, num_running, context) * instance.slowdown
        if is_async:
            ends_at_s = next_ends_at_s
            next_ends_at_s = ends_at_s + duration_s
        else:
            ends_at_s = free_at_s + duration_s
        busy_s += duration_s
        context += num_running
        num_done += 1
    instance.free_at_s, instance.step_ends_at_s = free_at_s, ends_at_s
    instance.next_step_ends_at_s = next_ends_at_s
    instance.busy_s = busy_s

    growing = 0
    for _ in range(num_done):
        tell(instance)
        instance.num_left_waiting = instance.num_waiting
        after = growing + 1 if growing + 1 < block_size else 0
        filling = growing if is_async else after  # a token in flight is not cached yet
        _hand_out_blocks(state, instance, head[growing], head[filling])
        growing = after

    instance.num_steps += num_done
    instance.oldest_step += num_done
    instance.num_decode_steps += num_done
    instance.num_computed_tokens += num_done * num_running
    instance.num_generated_tokens += num_done * num_running
    for at in range(num_running):
        request = state.requests[state.running[first + at]]
        request.num_computed_tokens += num_done
        request.num_generated_tokens += num_done
        request.last_sampling_step = instance.num_steps - 1


@njit(cache=True, forceinline=True)
def _hand_out_blocks(state: State, instance: InstanceRecord, growing: int, filling: int) -> None:
    """Give a block to those of one list and cache the one that those of the other fill, in running order."""
    first, has_cache = instance.first_row, instance.prefix_caching
    while growing != NONE or filling != NONE:
        if filling == NONE or NONE < growing <= filling:
            request = state.requests[state.running[first + growing]]
            grow(state, instance, request, request.num_held_blocks + 1)
            growing = state.next_alike[first + growing]
        else:
            if has_cache:
                request = state.requests[state.running[first + filling]]
                num_full = request.num_cached_blocks + 1
                cache_full_blocks(state, instance, request, num_full * instance.block_size)
            filling = state.next_alike[first + filling]
