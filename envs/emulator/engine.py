"""The engine loop: time passes on the instances of an emulated cluster.

An instance alternates between choosing a step (``schedule``) and ending it (``finish_step``). A step that
would begin at the very instant the cluster is advanced to is not begun: requests submitted at that instant
still join it, as vLLM's engine core empties its input queue before each step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from envs.emulator.borrow import borrowed
from envs.emulator.scheduler import finish_step, schedule
from envs.emulator.state import NUM_EVENTS, State


@njit(cache=True, forceinline=True)
def advance_instance(state: State, index: int, until_s: float) -> None:
    """Run one instance's steps that begin before ``until_s``; end those that end by then."""
    instance = state.instances[index]
    while True:
        if instance.step_ends_at_s < np.inf:
            if instance.step_ends_at_s > until_s:
                return
            finish_step(state, index)
            instance.step_ends_at_s = np.inf
        if instance.num_running + instance.num_waiting == 0 or instance.free_at_s >= until_s:
            return
        schedule(state, index)


@njit(cache=True, forceinline=True)
def advance_all(state: State, until_s: float) -> None:
    """Run every instance up to ``until_s``."""
    state = borrowed(state)
    for index in range(state.instances.shape[0]):
        advance_instance(state, index, until_s)


@njit(cache=True, forceinline=True)
def advance_to_completion(state: State, until_s: float) -> float:
    """Run all instances in step until the first completion, or ``until_s``; return the instant reached."""
    state = borrowed(state)
    instances = state.instances
    while True:
        next_s = until_s
        for index in range(instances.shape[0]):
            instance = instances[index]
            if instance.step_ends_at_s == np.inf and instance.num_running + instance.num_waiting > 0:
                if instance.free_at_s >= until_s:
                    continue
                schedule(state, index)
            next_s = min(next_s, instance.step_ends_at_s)
        first_event = state.counts[NUM_EVENTS]
        advance_all(state, next_s)
        for event in range(first_event, state.counts[NUM_EVENTS]):
            if state.events[event].is_completion:
                return next_s
        if next_s == until_s:
            return until_s
