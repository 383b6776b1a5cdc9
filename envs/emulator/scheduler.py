"""One instance's scheduler: which requests compute how many tokens in a step, as vLLM V1 decides it.

Follows ``Scheduler.schedule`` and ``update_from_output`` of vLLM 0.32.0 (vllm/v1/core/sched/scheduler.py),
for FCFS, synchronous scheduling and decoder-only models without speculative decoding:

* one token budget (``max_num_batched_tokens``) for decodes and prefill chunks alike;
* running requests first, in the order of their admission, then waiting ones, first come first served; the
  first waiting request that cannot be admitted stops the scan;
* where no block is free the last running request is preempted: its blocks are freed, it goes to the head of
  the waiting queue and computes everything again (or finds it in the cache); a step that preempted
  admits nobody;
* a waiting request is admitted only if its whole sequence fits (``scheduler_reserve_full_isl``) and, beside
  others, leaves the watermark free.
"""

from __future__ import annotations

from numba import njit

from envs.emulator.kv_cache import (
    cache_full_blocks,
    free_request,
    grow,
    num_hit_blocks,
    num_unreferenced,
    publish_private_blocks,
    touch,
)
from envs.emulator.state import (
    NEW,
    NONE,
    NUM_EVENTS,
    NUM_STEP_ROWS,
    PREEMPTED,
    RESUMED,
    RUNNING,
    InstanceRecord,
    RequestRecord,
    State,
)
from envs.emulator.step_time import step_time_s


@njit(cache=True, forceinline=True)
def enqueue(state: State, instance: InstanceRecord, slot: int) -> None:
    """Put a request at the end of the waiting queue."""
    state.requests[slot].next_waiting = NONE
    if instance.num_waiting == 0:
        instance.waiting_head = slot
    else:
        state.requests[instance.waiting_tail].next_waiting = slot
    instance.waiting_tail = slot
    instance.num_waiting += 1


@njit(cache=True, forceinline=True)
def _log(state: State, index: int, slot: int, num_tokens: int, num_computed: int, kind: int) -> None:
    log, counts = state.step_log, state.counts
    if log.shape[0] == 0:
        return
    if counts[NUM_STEP_ROWS] == log.shape[0]:
        raise RuntimeError("step log is full: take its rows more often or give it more room")
    instance, request = state.instances[index], state.requests[slot]
    row = log[counts[NUM_STEP_ROWS]]
    row.instance = index
    row.step = instance.num_steps
    row.starts_at_s = instance.free_at_s
    row.request_id = request.request_id
    row.num_scheduled_tokens = num_tokens
    row.num_computed_before = num_computed
    row.num_held_blocks = request.num_held_blocks
    row.kind = kind
    counts[NUM_STEP_ROWS] += 1


@njit(cache=True, forceinline=True)
def _release(state: State, instance: InstanceRecord, request: RequestRecord) -> None:
    """Give back a request's blocks and its row of the block table."""
    free_request(state, instance, request)
    state.free_rows[instance.first_row + instance.num_free_rows] = request.row
    instance.num_free_rows += 1
    request.row = NONE


@njit(cache=True, forceinline=True)
def _preempt_last(state: State, index: int) -> int:
    instance = state.instances[index]
    instance.num_running -= 1
    slot = state.running[instance.first_row + instance.num_running]
    request = state.requests[slot]
    if instance.prefix_caching:
        publish_private_blocks(state, instance, request)
    _release(state, instance, request)
    request.num_computed_tokens = 0
    request.num_scheduled_tokens = 0
    request.num_preemptions += 1
    instance.num_preemptions += 1
    request.next_waiting = instance.waiting_head
    if instance.num_waiting == 0:
        instance.waiting_tail = slot
    instance.waiting_head = slot
    instance.num_waiting += 1
    _log(state, index, slot, 0, 0, PREEMPTED)
    return slot


@njit(cache=True, forceinline=True)
def _admit(state: State, index: int, budget: int, threshold: int) -> int:
    """Move the head of the waiting queue into the running list if it fits; return its tokens, or 0."""
    instance = state.instances[index]
    slot = instance.waiting_head
    request = state.requests[slot]
    block_size = instance.block_size
    num_tokens = request.num_prompt_tokens + request.num_generated_tokens
    row_index = state.free_rows[instance.first_row + instance.num_free_rows - 1]
    row = state.block_table[row_index]
    num_hits = num_hit_blocks(state, instance, request, num_tokens, row)
    num_computed = num_hits * block_size
    num_new = num_tokens - num_computed
    if 0 < threshold < num_new:
        num_new = threshold
    num_new = min(num_new, budget)
    must_hold = num_computed + num_new
    if instance.reserve_full_isl:
        must_hold = max(must_hold, num_tokens)
    num_needed = (
        (must_hold + block_size - 1) // block_size - num_hits + num_unreferenced(state, row, num_hits)
    )
    if instance.num_running > 0:
        num_needed += instance.watermark_blocks
    if num_needed > instance.num_free_blocks:
        return 0

    instance.num_free_rows -= 1
    request.row = row_index
    instance.waiting_head = request.next_waiting
    instance.num_waiting -= 1
    state.running[instance.first_row + instance.num_running] = slot
    instance.num_running += 1
    touch(state, instance, row, num_hits)
    request.num_held_blocks = num_hits
    request.num_cached_blocks = num_hits
    request.num_computed_tokens = num_computed
    grow(state, instance, request, (num_computed + num_new + block_size - 1) // block_size)
    cache_full_blocks(state, instance, request, num_computed + num_new)
    request.num_scheduled_tokens = num_new
    if instance.prefix_caching and request.num_preemptions == 0:
        request.num_cached_tokens = num_computed
        instance.num_queried_tokens += num_tokens
        instance.num_hit_tokens += num_computed
    _log(state, index, slot, num_new, num_computed, NEW if request.num_preemptions == 0 else RESUMED)
    return num_new


@njit(cache=True, forceinline=True)
def schedule(state: State, index: int) -> None:
    """Begin a step at ``free_at_s``: choose its tokens, take their blocks, set ``step_ends_at_s``."""
    instance = state.instances[index]
    running, requests, first = state.running, state.requests, instance.first_row
    block_size = instance.block_size
    budget = instance.max_num_batched_tokens
    first_log_row = state.counts[NUM_STEP_ROWS]
    # With nobody else there is nobody to starve, and vLLM lets a long prefill use the whole budget.
    alone = instance.num_running + instance.num_waiting <= 1
    threshold = 0 if alone else instance.long_prefill_token_threshold
    num_prefill_tokens, num_decodes = 0, 0
    num_attended_pairs, num_context = 0.0, 0.0
    preempted = False

    at = 0
    while at < instance.num_running and budget > 0:
        slot = running[first + at]
        request = requests[slot]
        num_computed = request.num_computed_tokens
        num_known = request.num_prompt_tokens + request.num_generated_tokens
        num_new = num_known - num_computed
        if 0 < threshold < num_new:
            num_new = threshold
        num_new = min(num_new, budget)
        num_after = num_computed + num_new
        if num_after > request.num_held_blocks * block_size:
            num_blocks = (num_after + block_size - 1) // block_size
            itself = False
            while num_blocks - request.num_held_blocks > instance.num_free_blocks and not itself:
                itself = _preempt_last(state, index) == slot
                preempted = True
            if itself:
                break
            grow(state, instance, request, num_blocks)
        if num_after >= (request.num_cached_blocks + 1) * block_size:
            cache_full_blocks(state, instance, request, num_after)
        request.num_scheduled_tokens = num_new
        budget -= num_new
        if num_new == 1:
            num_decodes += 1
            num_context += num_computed + 1
        else:
            num_prefill_tokens += num_new
            num_attended_pairs += num_new * (num_computed + 0.5 * (num_new + 1))
        _log(state, index, slot, num_new, num_computed, RUNNING)
        at += 1

    for later in range(at, instance.num_running):  # the budget did not reach them
        requests[running[first + later]].num_scheduled_tokens = 0

    while (
        not preempted
        and budget > 0
        and instance.num_waiting > 0
        and instance.num_running < instance.max_num_seqs
    ):
        slot = instance.waiting_head
        num_new = _admit(state, index, budget, threshold)
        if num_new == 0:
            break
        budget -= num_new
        num_computed = requests[slot].num_computed_tokens
        if num_new == 1:
            num_decodes += 1
            num_context += num_computed + 1
        else:
            num_prefill_tokens += num_new
            num_attended_pairs += num_new * (num_computed + 0.5 * (num_new + 1))

    if num_prefill_tokens + num_decodes == 0:
        raise RuntimeError("a step with requests scheduled no token: the emulator has lost its way")
    duration_s = step_time_s(instance, num_prefill_tokens, num_attended_pairs, num_decodes, num_context)
    instance.step_ends_at_s = instance.free_at_s + duration_s
    instance.busy_s += duration_s
    instance.num_computed_tokens += num_prefill_tokens + num_decodes
    if state.step_log.shape[0] > 0:
        for row in range(first_log_row, state.counts[NUM_STEP_ROWS]):
            state.step_log[row].ends_at_s = instance.step_ends_at_s
            state.step_log[row].num_free_blocks = instance.num_free_blocks


@njit(cache=True, forceinline=True)
def _emit(state: State, index: int, slot: int, at_s: float, is_completion: bool) -> None:
    event = state.events[state.counts[NUM_EVENTS]]
    event.at_s = at_s
    event.slot = slot
    event.instance = index
    event.is_completion = is_completion
    state.counts[NUM_EVENTS] += 1


@njit(cache=True, forceinline=True)
def finish_step(state: State, index: int) -> None:
    """End the running step: hand out its tokens, finish the requests that have all of theirs."""
    instance = state.instances[index]
    running, first = state.running, instance.first_row
    now_s = instance.step_ends_at_s
    num_kept = 0
    for at in range(instance.num_running):
        slot = running[first + at]
        request = state.requests[slot]
        if request.num_scheduled_tokens > 0:
            request.num_computed_tokens += request.num_scheduled_tokens
            num_known = request.num_prompt_tokens + request.num_generated_tokens
            if request.num_computed_tokens == num_known:
                request.num_generated_tokens += 1
                instance.num_generated_tokens += 1
                if request.num_generated_tokens == 1:
                    request.first_token_at_s = now_s
                    _emit(state, index, slot, now_s, False)
                if request.num_generated_tokens == request.num_output_tokens:
                    _release(state, instance, request)
                    instance.num_finished += 1
                    _emit(state, index, slot, now_s, True)
                    continue
        running[first + num_kept] = slot
        num_kept += 1
    instance.num_running = num_kept
    instance.num_steps += 1
    instance.free_at_s = now_s
