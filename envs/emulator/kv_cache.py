"""Paged KV blocks of one instance, as vLLM V1 keeps them.

Follows ``BlockPool`` and ``FullAttentionManager`` (vllm/v1/core/block_pool.py,
single_type_kv_cache_manager.py) of the version of vLLM that ``envs.emulator`` names:

* free blocks form one queue; the head is handed out (and evicted) next;
* a request's blocks are freed tail first; blocks that are in the prefix cache go to the end of the queue,
  those that are not go to its front;
* a full block of known tokens enters the cache when it is scheduled, so that a request scheduled later in
  the same step may hit it; several blocks may be cached under one hash, the oldest is the one that is hit;
* a hit takes its block out of the queue, wherever it stands.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.prefix_cache import evict, find_next, insert, mixed
from envs.emulator.state import (
    CACHED,
    NONE,
    PRIVATE,
    UNCACHED,
    InstanceRecord,
    RequestRecord,
    State,
)


@njit(cache=True, forceinline=True)
def block_hash(request: RequestRecord, hashes: NDArray[np.int64], index: int) -> int:
    """Hash of a request's ``index``-th block; one of its own where the workload gave none."""
    if index < request.num_hashes:
        return hashes[request.first_hash + index]
    return mixed((request.request_id + 1) * np.int64(1 << 24) + index) | 1


@njit(cache=True, forceinline=True)
def _make_room(state: State, instance: InstanceRecord, num_places: int) -> None:
    """Close the queue's gaps if it would not take ``num_places`` more blocks."""
    queue, first, mask = state.free_queue, instance.first_place, instance.place_mask
    if instance.free_tail - instance.free_head + num_places <= mask + 1:
        return
    tail = instance.free_head
    for place in range(instance.free_head, instance.free_tail):
        block = queue[first + (place & mask)]
        if block != NONE:
            queue[first + (tail & mask)] = block
            state.blocks[block].place = first + (tail & mask)
            tail += 1
    instance.free_tail = tail


@njit(cache=True, forceinline=True)
def free_request(state: State, instance: InstanceRecord, request: RequestRecord) -> None:
    """Give a request's blocks back, tail first; cached ones to the end of the queue, others to its front."""
    blocks, row = state.blocks, state.block_table[request.row]
    queue, first, mask = state.free_queue, instance.first_place, instance.place_mask
    num_held, num_cached = request.num_held_blocks, request.num_cached_blocks
    _make_room(state, instance, num_held)
    tail = instance.free_tail
    for index in range(num_cached - 1, -1, -1):
        record = blocks[row[index]]
        record.num_refs -= 1
        if record.num_refs == 0:
            record.place = first + (tail & mask)
            queue[record.place] = row[index]
            tail += 1
    instance.num_free_blocks += tail - instance.free_tail + num_held - num_cached
    instance.free_tail = tail
    head = instance.free_head
    for index in range(num_cached, num_held):  # the last block is to be the queue's first
        record = blocks[row[index]]
        head -= 1
        record.num_refs = 0
        record.place = first + (head & mask)
        queue[record.place] = row[index]
    instance.free_head = head
    request.num_held_blocks = 0
    request.num_cached_blocks = 0


@njit(cache=True, forceinline=True)
def _cache(
    state: State, instance: InstanceRecord, request: RequestRecord, row: NDArray[np.int32], index: int
) -> None:
    """Enter a request's ``index``-th block in the prefix cache."""
    before = row[index - 1] if index > 0 else NONE
    insert(state, instance, row[index], block_hash(request, state.hashes, index), before)


@njit(cache=True, forceinline=True)
def publish_private_blocks(state: State, instance: InstanceRecord, request: RequestRecord) -> None:
    """Enter a request's private blocks in the prefix cache, for its return after a preemption."""
    row = state.block_table[request.row]
    for index in range(request.num_cached_blocks):
        if state.blocks[row[index]].kind == PRIVATE:
            _cache(state, instance, request, row, index)


@njit(cache=True, forceinline=True)
def num_hit_blocks(
    state: State, instance: InstanceRecord, request: RequestRecord, num_tokens: int, row: NDArray[np.int32]
) -> int:
    """Write the longest cached prefix of ``num_tokens`` tokens into ``row``; return its length in blocks.

    The last token is always computed anew, for its logits, so that a full hit recomputes its last block.
    """
    if not instance.prefix_caching:
        return 0
    limit = (num_tokens - 1) // instance.block_size
    if request.num_preemptions == 0:
        limit = min(limit, request.num_hashes)  # nothing of its own can be cached yet
    block = NONE
    for index in range(limit):
        block = find_next(state, instance, block, block_hash(request, state.hashes, index))
        if block == NONE:
            return index
        row[index] = block
    return limit


@njit(cache=True, forceinline=True)
def num_unreferenced(state: State, row: NDArray[np.int32], num_blocks: int) -> int:
    """Of the first blocks of a row, count those that stand in the free queue."""
    num = 0
    for index in range(num_blocks):
        if state.blocks[row[index]].num_refs == 0:
            num += 1
    return num


@njit(cache=True, forceinline=True)
def touch(state: State, instance: InstanceRecord, row: NDArray[np.int32], num_blocks: int) -> None:
    """Take a reference on the first blocks of a row."""
    for index in range(num_blocks):
        block = row[index]
        record = state.blocks[block]
        if record.num_refs == 0:
            state.free_queue[record.place] = NONE
            instance.num_free_blocks -= 1
        record.num_refs += 1


@njit(cache=True, forceinline=True)
def grow(state: State, instance: InstanceRecord, request: RequestRecord, num_blocks: int) -> None:
    """Hand blocks from the head of the queue to a request until it holds ``num_blocks``."""
    row, blocks = state.block_table[request.row], state.blocks
    num_held = request.num_held_blocks
    if num_blocks <= num_held:
        return
    queue, first, mask = state.free_queue, instance.first_place, instance.place_mask
    head = instance.free_head
    for index in range(num_held, num_blocks):
        block = queue[first + (head & mask)]
        while block == NONE:
            head += 1
            block = queue[first + (head & mask)]
        head += 1
        record = blocks[block]
        if record.kind >= CACHED:
            evict(state, instance, block)
        record.kind = UNCACHED
        record.num_refs = 1
        row[index] = block
    instance.free_head = head
    instance.num_free_blocks -= num_blocks - num_held
    request.num_held_blocks = num_blocks


@njit(cache=True, forceinline=True)
def cache_full_blocks(
    state: State, instance: InstanceRecord, request: RequestRecord, num_tokens: int
) -> None:
    """Enter the request's blocks that ``num_tokens`` tokens fill in the prefix cache."""
    if not instance.prefix_caching:
        return
    row = state.block_table[request.row]
    num_full = num_tokens // instance.block_size
    for index in range(request.num_cached_blocks, num_full):
        if index < request.num_hashes or request.num_preemptions > 0:
            _cache(state, instance, request, row, index)
        else:
            state.blocks[row[index]].kind = PRIVATE
    if num_full > request.num_cached_blocks:
        request.num_cached_blocks = num_full
