"""Which block holds what: automatic prefix caching of one instance.

As vLLM's ``BlockHashToBlockMap`` (vllm/v1/core/block_pool.py): several blocks may be cached under one hash,
and the oldest of them is the one that is hit. They form a ring here, and what is said below of a block is
said of the oldest of its ring.

vLLM looks each hash up in one table. But a hash stands for the whole prefix, so that a cached prefix is a
chain, and the block after a given one is nearly always the same: each block knows one *child*, found without
a table. The table, whose places lie anywhere in memory, holds the first block of each prefix, and the *loose*
ones:

* further children, where prefixes part; their parent is marked as one that ``branches``;
* orphans, whose parent was evicted before them, or forgotten; ``may_have_orphans`` is set while there may be
  one, until no block is loose.

So a hash that is not the child's need only be looked up in the table where the parent branches or where there
may be orphans, and else is not there.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.state import CACHED, NO_HASH, NONE, UNCACHED, InstanceRecord, State


@njit(cache=True, forceinline=True)
def mixed(value: int) -> int:
    """Scramble 64 bits (the finaliser of splitmix64)."""
    z = np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(1))  # type: ignore[return-value]


@njit(cache=True)
def _place_of(state: State, instance: InstanceRecord, wanted: int) -> int:
    """Where a hash stands in the table, or the empty place where it would."""
    slots, first, mask = state.cache_slots, instance.first_cache_slot, instance.cache_slot_mask
    at = mixed(wanted) & mask
    while slots[first + at].block_hash != wanted and slots[first + at].block_hash != NO_HASH:
        at = (at + 1) & mask
    return first + at


@njit(cache=True)
def _clear_place(state: State, instance: InstanceRecord, place: int) -> None:
    """Take an entry out of the table: move back every later one of its run that may stand in the gap."""
    slots, first, mask = state.cache_slots, instance.first_cache_slot, instance.cache_slot_mask
    hole = place - first
    at = hole
    while True:
        at = (at + 1) & mask
        follower = slots[first + at].block_hash
        if follower == NO_HASH:
            break
        home = mixed(follower) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            slots[first + hole].block_hash = follower
            slots[first + hole].block = slots[first + at].block
            hole = at
    slots[first + hole].block_hash = NO_HASH


@njit(cache=True, forceinline=True)
def find_next(state: State, instance: InstanceRecord, parent: int, wanted: int) -> int:
    """Return the block that is hit for the hash that follows a hit block (``NONE``: the first), or NONE."""
    if parent != NONE:
        child = state.cached_blocks[parent].child
        if child != NONE and state.cached_blocks[child].block_hash == wanted:
            return child
        if not state.cached_blocks[parent].branches and not instance.may_have_orphans:
            return NONE
    slot = state.cache_slots[_place_of(state, instance, wanted)]
    return slot.block if slot.block_hash == wanted else NONE


@njit(cache=True, forceinline=True)
def insert(state: State, instance: InstanceRecord, block: int, wanted: int, before: int) -> None:
    """Cache a block under a hash, behind the blocks that are there already.

    ``before`` is the block before it in its request, ``NONE`` for the first.
    """
    cached = state.cached_blocks
    record = cached[block]
    record.block_hash = wanted
    record.prev_twin = record.next_twin = block
    record.parent = record.child = NONE
    record.is_oldest, record.branches, record.is_loose = True, False, False
    state.blocks[block].kind = CACHED

    parent, child, in_table = NONE, NONE, True  # whether the table may hold the hash
    if before != NONE and state.blocks[before].kind == CACHED:
        parent = before
        while not cached[parent].is_oldest:
            parent = cached[parent].prev_twin
        child = cached[parent].child
        if child != NONE and cached[child].block_hash == wanted:
            _join(state, block, child)
            return
        in_table = cached[parent].branches or instance.may_have_orphans
    if in_table or parent == NONE or child != NONE:
        slot = state.cache_slots[_place_of(state, instance, wanted)]
        if slot.block_hash == wanted:
            _join(state, block, slot.block)
            return
        if parent == NONE or child != NONE:
            slot.block_hash = wanted
            slot.block = block
            if before != NONE:
                record.is_loose = True
                instance.num_loose_blocks += 1
                if parent == NONE:
                    instance.may_have_orphans = True
                else:
                    cached[parent].branches = True
            return
    cached[parent].child = block
    record.parent = parent


@njit(cache=True)
def _join(state: State, block: int, oldest: int) -> None:
    """Put a block at the end of a ring."""
    cached = state.cached_blocks
    newest = cached[oldest].prev_twin
    cached[newest].next_twin = block
    cached[block].prev_twin = newest
    cached[block].next_twin = oldest
    cached[oldest].prev_twin = block
    cached[block].is_oldest = False


@njit(cache=True, forceinline=True)
def evict(state: State, instance: InstanceRecord, block: int) -> None:
    """Forget what a cached block holds."""
    cached = state.cached_blocks
    record = cached[block]
    state.blocks[block].kind = UNCACHED
    if record.next_twin != block:
        _leave(state, instance, block)
        return
    if record.parent != NONE:
        cached[record.parent].child = NONE
    else:
        _clear_place(state, instance, _place_of(state, instance, record.block_hash))
        instance.num_loose_blocks -= record.is_loose
    if record.child != NONE or record.branches:
        _orphan(state, instance, block)
    if instance.num_loose_blocks == 0:
        instance.may_have_orphans = False


@njit(cache=True)
def _leave(state: State, instance: InstanceRecord, block: int) -> None:
    """Take a block out of a ring of several; the next oldest takes its place, if it was the oldest."""
    cached = state.cached_blocks
    record = cached[block]
    cached[record.prev_twin].next_twin = record.next_twin
    cached[record.next_twin].prev_twin = record.prev_twin
    if not record.is_oldest:
        return
    heir = cached[record.next_twin]
    heir.is_oldest = True
    heir.parent, heir.child = record.parent, record.child
    heir.branches, heir.is_loose = record.branches, record.is_loose
    if record.child != NONE:
        cached[record.child].parent = record.next_twin
    if record.parent != NONE:
        cached[record.parent].child = record.next_twin
    else:
        state.cache_slots[_place_of(state, instance, record.block_hash)].block = record.next_twin


@njit(cache=True)
def _orphan(state: State, instance: InstanceRecord, block: int) -> None:
    """Let what followed a block stay in the cache without it."""
    instance.may_have_orphans = True
    child = state.cached_blocks[block].child
    if child != NONE:
        record = state.cached_blocks[child]
        record.parent = NONE
        record.is_loose = True
        instance.num_loose_blocks += 1
        slot = state.cache_slots[_place_of(state, instance, record.block_hash)]
        slot.block_hash = record.block_hash
        slot.block = child


@njit(cache=True)
def count_cached_blocks(state: State, hashes: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Write how many of these blocks, a prompt's first ones, each instance's cache holds."""
    for index in range(state.instances.shape[0]):
        instance = state.instances[index]
        num, block = 0, NONE
        while instance.prefix_caching and num < hashes.shape[0]:
            block = find_next(state, instance, block, hashes[num])
            if block == NONE:
                break
            num += 1
        out[index] = num
