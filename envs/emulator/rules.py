"""Compiled routing rules for ``replay``: the bare loop's baselines.

A rule is an ``@njit`` function ``rule(state, slot, rng) -> instance index``. ``state.requests[slot]`` is the
request to be routed; the instances are as they stand at its arrival. A rule sees everything, also what a
router could not know: it is for measurements and oracles. Policies proper live in ``agents``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from envs.emulator.state import State


@njit(cache=True)
def round_robin(state: State, slot: int, rng: np.random.Generator) -> int:
    """Each instance in turn."""
    return state.requests[slot].request_id % state.instances.shape[0]


@njit(cache=True)
def uniform_random(state: State, slot: int, rng: np.random.Generator) -> int:
    """Any instance with the same chance."""
    return int(rng.random() * state.instances.shape[0])


@njit(cache=True)
def least_in_flight(state: State, slot: int, rng: np.random.Generator) -> int:
    """The instance with the fewest requests, the first of them."""
    best, fewest = 0, np.int64(1 << 62)
    for index in range(state.instances.shape[0]):
        instance = state.instances[index]
        num = instance.num_running + instance.num_waiting
        if num < fewest:
            best, fewest = index, num
    return best
