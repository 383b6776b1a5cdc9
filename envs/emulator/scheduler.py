"""One instance's scheduler: which requests compute how many tokens in a step, as vLLM V1 decides it.

Follows ``Scheduler`` and ``AsyncScheduler`` (vllm/v1/core/sched/) of the version of vLLM that
``envs.emulator`` names, for decoder-only models without speculative decoding:

* one token budget (``max_num_batched_tokens``) for decodes and prefill chunks alike;
* running requests first, in the order of their admission, then waiting ones, first come first served or by
  priority; the first waiting request that cannot be admitted stops the scan, and without ``chunked_prefill``
  one whose tokens are more than what is left of the budget cannot;
* where no block is free a running request is preempted, the last or the one of the least priority: its blocks
  are freed, it goes back to the waiting queue and computes everything again (or finds it in the cache); a
  step that preempted admits nobody;
* a waiting request is admitted only if its whole sequence fits (``scheduler_reserve_full_isl``) and, beside
  others, leaves the watermark free.

Under asynchronous scheduling a step is chosen while the one before it runs, so without knowing its tokens:

* a request's next token is scheduled while the last one is pending, but none past its last;
* blocks are cached as far as tokens are known, which is one step later;
* a request whose last token is pending keeps its blocks and its place until that step has ended;
* the pending token of a request that is preempted still comes, and may finish it while it waits.

How this takes time is in ``envs.emulator.engine``.
"""

from __future__ import annotations

import numpy as np
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
from envs.emulator.waiting import comes_before, put_back, remove, take_head


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
    row.scheduled_at_s = instance.free_at_s
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


@njit(cache=True)
def _place_of_least_priority(state: State, instance: InstanceRecord) -> int:
    """Place in the running list of who is preempted first: who would come last in the waiting queue.

    vLLM looks at priority and arrival only and takes the first of equals, which its clock does not produce.
    The arrivals of a trace can be equal, and two equals could then preempt each other for ever.
    """
    running, first = state.running, instance.first_row
    place = 0
    for at in range(1, instance.num_running):
        if comes_before(state, running[first + place], running[first + at]):
            place = at
    return place


@njit(cache=True)
def _forget_row(state: State, first_log_row: int, slot: int) -> None:
    """Take back what was logged of a request in the step that is being chosen."""
    log, counts = state.step_log, state.counts
    if log.shape[0] == 0:
        return
    num_kept = first_log_row
    for row in range(first_log_row, counts[NUM_STEP_ROWS]):
        if log[row].request_id != state.requests[slot].request_id:
            log[num_kept] = log[row]
            num_kept += 1
    counts[NUM_STEP_ROWS] = num_kept


@njit(cache=True, forceinline=True)
def _preempt(state: State, index: int, place: int) -> None:
    """Send the request at a place of the running list back to the waiting queue."""
    instance = state.instances[index]
    running, first = state.running, instance.first_row
    slot = running[first + place]
    for at in range(place + 1, instance.num_running):
        running[first + at - 1] = running[first + at]
    instance.num_running -= 1
    request = state.requests[slot]
    if instance.prefix_caching:
        publish_private_blocks(state, instance, request)
    _release(state, instance, request)
    request.num_computed_tokens = 0
    request.num_scheduled_tokens = 0
    if request.num_pending_tokens > 0:
        request.next_stale = instance.stale_head
        instance.stale_head = slot
    request.num_pending_tokens = 0
    request.num_preemptions += 1
    instance.num_preemptions += 1
    put_back(state, instance, slot)
    _log(state, index, slot, 0, 0, PREEMPTED)


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
    if num_new > budget and not instance.chunked_prefill:
        return 0
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
    take_head(state, instance)
    state.running[instance.first_row + instance.num_running] = slot
    instance.num_running += 1
    touch(state, instance, row, num_hits)
    request.num_held_blocks = num_hits
    request.num_cached_blocks = num_hits
    grow(state, instance, request, (num_computed + num_new + block_size - 1) // block_size)
    cache_full_blocks(state, instance, request, num_computed + num_new)
    request.num_scheduled_tokens = num_new
    request.num_computed_tokens = num_computed + num_new
    if num_computed + num_new == num_tokens:
        request.num_pending_tokens = 1
        request.last_sampling_step = instance.num_steps
    if instance.prefix_caching and request.num_preemptions == 0:
        request.num_cached_tokens = num_computed
        instance.num_queried_tokens += num_tokens
        instance.num_hit_tokens += num_computed
    _log(state, index, slot, num_new, num_computed, NEW if request.num_preemptions == 0 else RESUMED)
    return num_new


@njit(cache=True, forceinline=True)
def schedule(state: State, index: int) -> None:
    """Choose a step at ``free_at_s``: its tokens, their blocks, and when it runs.

    A step without tokens takes no time. It comes about where everybody was preempted, or where all that is
    left to do waits for the step in flight.
    """
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
        if num_computed == request.num_prompt_tokens + request.num_output_tokens - 1:
            request.num_scheduled_tokens = 0  # its last token is pending
            at += 1
            continue
        num_new = num_known + request.num_pending_tokens - num_computed
        is_last_chunk = True
        if 0 < threshold < num_new:
            num_new = threshold
            is_last_chunk = False
        if budget < num_new:
            num_new = budget
            is_last_chunk = False
        num_after = num_computed + num_new
        if num_after > request.num_held_blocks * block_size:
            num_blocks = (num_after + block_size - 1) // block_size
            itself = False
            while num_blocks - request.num_held_blocks > instance.num_free_blocks and not itself:
                preempted = True
                place = instance.num_running - 1
                if instance.by_priority:
                    place = _place_of_least_priority(state, instance)
                itself = place == at
                if place < at:  # it was scheduled in this step, or had nothing to schedule
                    at -= 1
                    victim = requests[running[first + place]]
                    num_back = victim.num_scheduled_tokens
                    num_before = victim.num_computed_tokens - num_back
                    budget += num_back
                    if num_back == 1:
                        num_decodes -= 1
                        num_context -= num_before + 1
                    else:
                        num_prefill_tokens -= num_back
                        num_attended_pairs -= num_back * (num_before + 0.5 * (num_back + 1))
                    if num_back > 0 and victim.last_sampling_step == instance.num_steps:
                        victim.num_pending_tokens -= 1
                    _forget_row(state, first_log_row, running[first + place])
                _preempt(state, index, place)
            if itself:
                if instance.continue_after_self_preemption:
                    continue
                break
            grow(state, instance, request, num_blocks)
        num_cacheable = min(num_after, num_known)
        if num_cacheable >= (request.num_cached_blocks + 1) * block_size:
            cache_full_blocks(state, instance, request, num_cacheable)
        request.num_scheduled_tokens = num_new
        request.num_computed_tokens = num_after
        if is_last_chunk:
            request.num_pending_tokens += 1
            request.last_sampling_step = instance.num_steps
        budget -= num_new
        if num_new == 1:
            num_decodes += 1
            num_context += num_computed + 1
        else:
            num_prefill_tokens += num_new
            num_attended_pairs += num_new * (num_computed + 0.5 * (num_new + 1))
        _log(state, index, slot, num_new, num_computed, RUNNING)
        at += 1

    num_kept = instance.num_running
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
        num_computed = requests[slot].num_computed_tokens - num_new
        if num_new == 1:
            num_decodes += 1
            num_context += num_computed + 1
        else:
            num_prefill_tokens += num_new
            num_attended_pairs += num_new * (num_computed + 0.5 * (num_new + 1))

    if num_prefill_tokens > 0 or instance.num_running > num_kept or preempted:
        instance.num_decode_steps = 0
        instance.looks_from_step = 0
    elif num_decodes == instance.num_running:
        instance.num_decode_steps += 1
    else:  # somebody is about to finish; the others go on as before
        instance.num_decode_steps = 1
        instance.looks_from_step = 0
    starts_at_s = instance.free_at_s if instance.num_in_flight == 0 else instance.step_ends_at_s
    ends_at_s = starts_at_s
    if num_prefill_tokens + num_decodes > 0:
        duration_s = step_time_s(instance, num_prefill_tokens, num_attended_pairs, num_decodes, num_context)
        duration_s *= instance.slowdown
        ends_at_s = starts_at_s + duration_s
        if instance.num_in_flight == 0:
            instance.step_ends_at_s = ends_at_s
            instance.oldest_step = instance.num_steps
        else:
            instance.next_step_ends_at_s = ends_at_s
        instance.num_in_flight += 1
        instance.busy_s += duration_s
        instance.num_computed_tokens += num_prefill_tokens + num_decodes
    elif instance.num_in_flight > 0:
        instance.is_stalled = True
    elif not preempted:
        raise RuntimeError("a step with requests scheduled no token: the emulator has lost its way")
    instance.num_steps += 1
    instance.num_left_waiting = instance.num_waiting
    if instance.num_in_flight == 0 or instance.tells_at_once:  # a step without tokens is over
        instance.tells_at_once = False
        tell(instance)
    if state.step_log.shape[0] > 0:
        for row in range(first_log_row, state.counts[NUM_STEP_ROWS]):
            state.step_log[row].starts_at_s = starts_at_s
            state.step_log[row].ends_at_s = ends_at_s
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
def _hand_out_token(state: State, index: int, slot: int, now_s: float) -> None:
    """Give a request its next token."""
    instance, request = state.instances[index], state.requests[slot]
    request.num_generated_tokens += 1
    instance.num_generated_tokens += 1
    if request.num_generated_tokens == 1:
        request.first_token_at_s = now_s
        _emit(state, index, slot, now_s, False)


@njit(cache=True, forceinline=True)
def tell(instance: InstanceRecord) -> None:
    """Publish the gauges, as vLLM's scheduler does once for each step (``make_stats``).

    Requests that came while the step ran lie in the engine's input queue, where no gauge counts them.
    """
    instance.told_waiting = instance.num_left_waiting
    instance.told_running = instance.num_running
    instance.told_free_blocks = instance.num_free_blocks
    instance.told_queried_tokens = instance.num_queried_tokens
    instance.told_hit_tokens = instance.num_hit_tokens


@njit(cache=True, forceinline=True)
def finish_step(state: State, index: int) -> None:
    """End the step that runs: hand out its tokens, finish the requests that have all of theirs."""
    instance = state.instances[index]
    running, first, block_size = state.running, instance.first_row, instance.block_size
    is_async = instance.max_in_flight > 1
    now_s, step = instance.step_ends_at_s, instance.oldest_step
    num_kept = 0
    for at in range(instance.num_running):
        slot = running[first + at]
        request = state.requests[slot]
        num_pending = request.num_pending_tokens
        if num_pending == 2 or (num_pending == 1 and request.last_sampling_step == step):
            request.num_pending_tokens = num_pending - 1
            _hand_out_token(state, index, slot, now_s)
            if is_async:
                num_cacheable = request.num_computed_tokens - num_pending + 1
                if num_cacheable >= (request.num_cached_blocks + 1) * block_size:
                    cache_full_blocks(state, instance, request, num_cacheable)
            if request.num_generated_tokens == request.num_output_tokens:
                _release(state, instance, request)
                instance.num_finished += 1
                _emit(state, index, slot, now_s, True)
                continue
        running[first + num_kept] = slot
        num_kept += 1
    instance.num_running = num_kept
    while instance.stale_head != NONE:  # preempted after this step was chosen
        slot = instance.stale_head
        request = state.requests[slot]
        instance.stale_head = request.next_stale
        _hand_out_token(state, index, slot, now_s)
        if request.num_generated_tokens == request.num_output_tokens:
            remove(state, instance, slot)
            instance.num_left_waiting -= 1
            instance.num_finished += 1
            _emit(state, index, slot, now_s, True)
    instance.num_in_flight -= 1
    instance.oldest_step = step + 1
    instance.step_ends_at_s = instance.next_step_ends_at_s if instance.num_in_flight > 0 else np.inf
    instance.tells_at_once = instance.is_stalled and instance.num_running + instance.num_waiting > 0
    instance.is_stalled = False
    instance.free_at_s = now_s
    tell(instance)
