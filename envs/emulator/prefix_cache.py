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
may be orphans, and else is not there. What is out of the ordinary about a block stands as marks in its
``kind``; nearly all have none, and are entered and evicted without a look at anything but their parent.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.state import (
    BRANCHES,
    CACHED,
    LOOSE,
    NO_HASH,
    NONE,
    TWIN,
    UNCACHED,
    YOUNGER,
    InstanceRecord,
    State,
)


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
        if not state.blocks[parent].kind & BRANCHES and not instance.may_have_orphans:
            return NONE
    slot = state.cache_slots[_place_of(state, instance, wanted)]
    return slot.block if slot.block_hash == wanted else NONE


@njit(cache=True, forceinline=True)
def insert(state: State, instance: InstanceRecord, block: int, wanted: int, before: int) -> None:
    """Cache a block under a hash, behind the blocks that are there already.

    ``before`` is the block before it in its request, ``NONE`` for the first.
    """
    cached, blocks = state.cached_blocks, state.blocks
    record = cached[block]
    record.block_hash = wanted
    record.child = NONE
    blocks[block].kind = CACHED
    if (
        before != NONE
        and blocks[before].kind == CACHED
        and cached[before].child == NONE
        and not instance.may_have_orphans
    ):
        cached[before].child = block
        record.parent = before
    else:
        _insert_by_table(state, instance, block, wanted, before)


@njit(cache=True)
def _insert_by_table(state: State, instance: InstanceRecord, block: int, wanted: int, before: int) -> None:
    """What is left of ``insert`` where the hash may be cached already, or its block cannot be a child."""
    cached, blocks = state.cached_blocks, state.blocks
    parent, child = NONE, NONE
    if before != NONE and blocks[before].kind >= CACHED:
        parent = before
        while blocks[parent].kind & YOUNGER:
            parent = state.twins[parent].prev
        child = cached[parent].child
        if child != NONE and cached[child].block_hash == wanted:
            _join(state, block, child)
            return
    slot = state.cache_slots[_place_of(state, instance, wanted)]
    if slot.block_hash == wanted:
        _join(state, block, slot.block)
        return
    cached[block].parent = NONE
    if parent != NONE and child == NONE:
        cached[parent].child = block
        cached[block].parent = parent
        return
    slot.block_hash = wanted
    slot.block = block
    if before != NONE:
        blocks[block].kind |= LOOSE
        instance.num_loose_blocks += 1
        if parent == NONE:
            instance.may_have_orphans = True
        else:
            blocks[parent].kind |= BRANCHES


@njit(cache=True)
def _join(state: State, block: int, oldest: int) -> None:
    """Put a block at the end of a ring."""
    twins = state.twins
    if not state.blocks[oldest].kind & TWIN:
        state.blocks[oldest].kind |= TWIN
        twins[oldest].prev = twins[oldest].next = oldest
    state.blocks[block].kind |= TWIN | YOUNGER
    newest = twins[oldest].prev
    twins[newest].next = block
    twins[block].prev = newest
    twins[block].next = oldest
    twins[oldest].prev = block


@njit(cache=True, forceinline=True)
def evict(state: State, instance: InstanceRecord, block: int) -> None:
    """Forget what a cached block holds."""
    cached = state.cached_blocks
    record, kind = cached[block], state.blocks[block].kind
    state.blocks[block].kind = UNCACHED
    if kind & TWIN:
        _leave(state, instance, block, kind)
        return
    if record.parent != NONE:
        cached[record.parent].child = NONE
    else:
        _clear_place(state, instance, _place_of(state, instance, record.block_hash))
        if kind & LOOSE:
            instance.num_loose_blocks -= 1
    if record.child != NONE or kind & BRANCHES:
        _orphan(state, instance, record.child)
    if instance.num_loose_blocks == 0:
        instance.may_have_orphans = False


@njit(cache=True)
def _leave(state: State, instance: InstanceRecord, block: int, kind: int) -> None:
    """Take a block out of a ring of several; the next oldest takes its place, if it was the oldest."""
    cached, blocks, twins = state.cached_blocks, state.blocks, state.twins
    heir = twins[block].next
    twins[twins[block].prev].next = heir
    twins[heir].prev = twins[block].prev
    if twins[heir].next == heir:
        blocks[heir].kind &= ~TWIN
    if kind & YOUNGER:
        return
    blocks[heir].kind = (blocks[heir].kind & ~YOUNGER) | (kind & (BRANCHES | LOOSE))
    parent, child = cached[block].parent, cached[block].child
    cached[heir].parent, cached[heir].child = parent, child
    if child != NONE:
        cached[child].parent = heir
    if parent != NONE:
        cached[parent].child = heir
    else:
        state.cache_slots[_place_of(state, instance, cached[block].block_hash)].block = heir


@njit(cache=True)
def _orphan(state: State, instance: InstanceRecord, child: int) -> None:
    """Let what followed an evicted block stay in the cache without it."""
    instance.may_have_orphans = True
    if child != NONE:
        record = state.cached_blocks[child]
        record.parent = NONE
        state.blocks[child].kind |= LOOSE
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
