"""From a trace's coarse content ids to the hashes of an engine's own, finer blocks."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@njit(cache=True)
def content_hash(key: int) -> np.int64:
    """Scramble a content key into [1, 2^63): one step of splitmix64 (Steele et al. 2014), its top 63 bits."""
    z = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return max(np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(1)), np.int64(1))


@njit(cache=True)
def hash_run(first_key: int, num: int) -> Integers:
    """Hashes of ``num`` blocks with consecutive content keys."""
    hashes = np.empty(num, np.int64)
    for index in range(num):
        hashes[index] = content_hash(first_key + index)
    return hashes


@njit(cache=True)
def expand(ids: Integers, id_offsets: Integers, hash_offsets: Integers, num_fine: int) -> Integers:
    """Split every coarse id into ``num_fine`` fine hashes; return them flat, ``[hash_offsets[-1]]``.

    Request ``i`` owns ``ids[id_offsets[i]:id_offsets[i + 1]]`` and receives ``hash_offsets[i + 1] -
    hash_offsets[i]`` hashes. A fine hash depends on its coarse id and the place inside it, so that equal
    coarse ids (equal whole prefixes) give equal fine hashes.
    """
    hashes = np.empty(hash_offsets[-1], np.int64)
    for request in range(len(hash_offsets) - 1):
        first, first_id = hash_offsets[request], id_offsets[request]
        for index in range(hash_offsets[request + 1] - first):
            coarse = ids[first_id + index // num_fine]
            hashes[first + index] = content_hash(coarse * num_fine + index % num_fine)
    return hashes
