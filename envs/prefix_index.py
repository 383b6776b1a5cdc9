"""The router's own index of which prefixes it sent where: an estimate of every instance's prefix cache.

A router does not see its instances' caches. Like llm-d's approximate prefix scorer (llm-d-router ebab687:
blocks of at least 64 tokens, 31,250 of them per instance, least recently used forgotten) it remembers the
prefixes it sent to each instance, and for how long.

All instances share one hash table of (instance, prefix hash) entries; each instance has its own list in
order of use. A request's blocks are put in tail first, so that of one prefix the deepest block is always
the least recently used: if a block is here, so are all before it, and the deepest can be bisected.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

import envs.emulator  # noqa: F401 (it says where compiled functions are kept)
from envs.untouched import untouched

NONE = -1


class Index(NamedTuple):
    """The index's memory."""

    buckets: NDArray[np.int32]  # [num_buckets]: first entry of each
    hashes: NDArray[np.int64]  # [num_entries]
    used_at_s: NDArray[np.float64]
    next_in_bucket: NDArray[np.int32]
    older: NDArray[np.int32]
    newer: NDArray[np.int32]
    oldest: NDArray[np.int32]  # [num_instances]
    newest: NDArray[np.int32]
    num_used: NDArray[np.int64]


class Keys(NamedTuple):
    """What an index counts in."""

    blocks_per_key: int
    tokens_per_key: int
    max_age_s: float
    """A prefix not sent again for so long is taken to be evicted."""


@njit(cache=True, forceinline=True)
def _bucket(index: Any, instance: int, block_hash: int) -> int:
    z = (np.uint64(block_hash) ^ (np.uint64(instance + 1) << np.uint64(40))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((z ^ (z >> np.uint64(32))) & np.uint64(index.buckets.shape[0] - 1))  # type: ignore[return-value]


@njit(cache=True, forceinline=True)
def _capacity(index: Any) -> int:
    return index.hashes.shape[0] // index.oldest.shape[0]  # type: ignore[no-any-return]


@njit(cache=True, forceinline=True)
def _find(index: Any, instance: int, block_hash: int) -> int:
    capacity = _capacity(index)
    entry = index.buckets[_bucket(index, instance, block_hash)]
    while entry != NONE and (index.hashes[entry] != block_hash or entry // capacity != instance):
        entry = index.next_in_bucket[entry]
    return int(entry)


@njit(cache=True, forceinline=True)
def _unlink(index: Any, instance: int, entry: int) -> None:
    older, newer = index.older[entry], index.newer[entry]
    if older == NONE:
        index.oldest[instance] = newer
    else:
        index.newer[older] = newer
    if newer == NONE:
        index.newest[instance] = older
    else:
        index.older[newer] = older


@njit(cache=True, forceinline=True)
def _append(index: Any, instance: int, entry: int) -> None:
    newest = index.newest[instance]
    index.older[entry], index.newer[entry] = newest, NONE
    index.newest[instance] = entry
    if newest == NONE:
        index.oldest[instance] = entry
    else:
        index.newer[newest] = entry


@njit(cache=True, forceinline=True)
def _forget(index: Any, instance: int, entry: int) -> None:
    bucket = _bucket(index, instance, index.hashes[entry])
    at = index.buckets[bucket]
    if at == entry:
        index.buckets[bucket] = index.next_in_bucket[entry]
    else:
        while index.next_in_bucket[at] != entry:
            at = index.next_in_bucket[at]
        index.next_in_bucket[at] = index.next_in_bucket[entry]
    _unlink(index, instance, entry)


@njit(cache=True, forceinline=True)
def forget(index: Any) -> None:
    """Forget everything."""
    for instance in range(index.oldest.shape[0]):
        index.oldest[instance] = NONE
        index.newest[instance] = NONE
        index.num_used[instance] = 0
    for bucket in range(index.buckets.shape[0]):
        index.buckets[bucket] = NONE


@njit(cache=True)
def forget_instance(index: Any, instance: int) -> None:
    """Forget what was sent to an instance."""
    while index.oldest[instance] != NONE:
        _forget(index, instance, index.oldest[instance])
    index.num_used[instance] = 0


@njit(cache=True, forceinline=True)
def insert(index: Any, keys: Keys, instance: int, block_hashes: NDArray[np.int64], now_s: float) -> None:
    """Remember that a prompt with these block hashes was sent to an instance."""
    capacity = _capacity(index)
    for key in range(min(block_hashes.shape[0] // keys.blocks_per_key, capacity) - 1, -1, -1):
        block_hash = block_hashes[(key + 1) * keys.blocks_per_key - 1]
        entry = _find(index, instance, block_hash)
        if entry != NONE:
            _unlink(index, instance, entry)
        else:
            if index.num_used[instance] < capacity:
                entry = instance * capacity + index.num_used[instance]
                index.num_used[instance] += 1
            else:
                entry = int(index.oldest[instance])
                _forget(index, instance, entry)
            bucket = _bucket(index, instance, block_hash)
            index.hashes[entry] = block_hash
            index.next_in_bucket[entry] = index.buckets[bucket]
            index.buckets[bucket] = entry
        index.used_at_s[entry] = now_s
        _append(index, instance, entry)


@njit(cache=True, forceinline=True)
def match(
    index: Any,
    keys: Keys,
    block_hashes: NDArray[np.int64],
    now_s: float,
    hit_tokens: NDArray[np.int64],
    used_at_s: NDArray[np.float64],
) -> None:
    """Look a prompt up.

    Writes the tokens of it that each instance is thought to have, and when the deepest matched block was
    last sent there (-inf without a match); both ``[num_instances]``.
    """
    num_keys = block_hashes.shape[0] // keys.blocks_per_key
    oldest_s = now_s - keys.max_age_s
    for instance in range(index.oldest.shape[0]):
        low, high = 0, num_keys  # the first `low` keys are here; not the first `high + 1`
        used_at_s[instance] = -np.inf
        while low < high:
            middle = (low + high + 1) // 2
            entry = _find(index, instance, block_hashes[middle * keys.blocks_per_key - 1])
            if entry != NONE and index.used_at_s[entry] >= oldest_s:
                low = middle
                used_at_s[instance] = index.used_at_s[entry]
            else:
                high = middle - 1
        hit_tokens[instance] = low * keys.tokens_per_key


def empty_index(num_instances: int, capacity: int, shape: tuple[int, ...] = ()) -> Index:
    """Memory for ``capacity`` keys per instance; with a ``shape``, an array of such memories. All are empty.

    Entries are written before they are read, so that untouched memory costs nothing.
    """
    num_entries = num_instances * capacity
    return Index(
        buckets=np.full((*shape, 1 << (num_entries - 1).bit_length()), NONE, np.int32),
        hashes=untouched((*shape, num_entries), np.int64),
        used_at_s=untouched((*shape, num_entries), np.float64),
        next_in_bucket=untouched((*shape, num_entries), np.int32),
        older=untouched((*shape, num_entries), np.int32),
        newer=untouched((*shape, num_entries), np.int32),
        oldest=np.full((*shape, num_instances), NONE, np.int32),
        newest=np.full((*shape, num_instances), NONE, np.int32),
        num_used=np.zeros((*shape, num_instances), np.int64),
    )


class PrefixIndex:
    """Which prefixes were sent to which instance.

    Args:
        num_instances: Instances to keep apart.
        block_size: Tokens per block hash of the requests.
        tokens_per_key: Granularity of the index, a multiple of ``block_size``.
        capacity: Keys remembered per instance.
        max_age_s: A prefix not sent again for so long is taken to be evicted.
    """

    def __init__(
        self,
        num_instances: int,
        block_size: int = 16,
        tokens_per_key: int = 64,
        capacity: int = 31_250,
        max_age_s: float = float("inf"),
    ) -> None:
        if tokens_per_key < block_size or tokens_per_key % block_size:
            raise ValueError(
                f"prefix_tokens_per_key is {tokens_per_key}, it must be a multiple of block_size {block_size}"
            )
        if capacity < 1 or not max_age_s > 0:
            raise ValueError(
                f"prefix_capacity ({capacity}) must be at least 1 and prefix_max_age_s ({max_age_s}) above 0"
            )
        self.keys = Keys(tokens_per_key // block_size, tokens_per_key, float(max_age_s))
        self.capacity = capacity
        self.memory = empty_index(num_instances, capacity)
        self._hit_tokens = np.zeros(num_instances, np.int64)
        self._used_at_s = np.full(num_instances, -np.inf)

    def reset(self) -> None:
        """Forget everything."""
        forget(self.memory)

    def forget(self, instance: int) -> None:
        """Forget what was sent to an instance."""
        forget_instance(self.memory, instance)

    def sent(self, instance: int, block_hashes: NDArray[np.int64], now_s: float) -> None:
        """Remember that a prompt with these block hashes was sent to an instance."""
        if len(block_hashes) >= self.keys.blocks_per_key:
            insert(self.memory, self.keys, instance, block_hashes, now_s)

    def keys_of(self, block_hashes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What of a prompt's block hashes the index holds: the last of each key's."""
        return block_hashes[self.keys.blocks_per_key - 1 :: self.keys.blocks_per_key]

    def told(self, instance: int, keys: NDArray[np.int64], now_s: float) -> None:
        """Remember a prompt that another router sent there, by its ``keys_of``."""
        insert(self.memory, self.keys._replace(blocks_per_key=1), instance, keys, now_s)

    def match(
        self, block_hashes: NDArray[np.int64], now_s: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Look a prompt up.

        Returns:
            Tokens of it that each instance is thought to have, and when the deepest matched block was last
            sent there (-inf without a match); both ``[num_instances]`` and overwritten by the next call.
        """
        if len(block_hashes) >= self.keys.blocks_per_key:
            match(self.memory, self.keys, block_hashes, now_s, self._hit_tokens, self._used_at_s)
        else:
            self._hit_tokens.fill(0)
            self._used_at_s.fill(-np.inf)
        return self._hit_tokens, self._used_at_s
