"""The engine loop: time passes on the instances of an emulated cluster.

An instance chooses steps (``schedule``) and ends them (``finish_step``); its device runs one at a time. As in
vLLM's engine core (vllm/v1/engine/core.py, ``step`` and ``step_with_batch_queue``):

* synchronous: a step is chosen when the one before it has ended, and runs at once;
* asynchronous: up to two steps are in flight. When step n ends, step n + 1, chosen before, runs at once; step
  n + 2 is chosen at that instant, with the tokens of step n known and those of step n + 1 pending. So
  steps follow each other without a gap, and a request that comes while step n runs joins step n + 2 at
  the earliest. An idle instance chooses two steps at the instant of the first arrival; a step that would
  hold no token is not run, and the next one is chosen when the step in flight has ended.

The tokens of a step are out when it ends. The time that choosing takes is not modelled by itself: what it
costs the device is part of the law of step times. Nor is the millisecond that vLLM's loop sleeps
after a step without tokens.

A step that would be chosen at the very instant the cluster is advanced to is not: requests submitted at that
instant still join it, as vLLM empties its input queue before each step.

Steps that are all alike are taken many at once, and only when somebody asks (``envs.emulator.skip``).
"""

from __future__ import annotations

from numba import njit

from envs.emulator.borrow import borrowed
from envs.emulator.scheduler import finish_step, schedule
from envs.emulator.skip import look_ahead, only_decodes, quiet_until_s, skip_decodes, worth_skipping
from envs.emulator.state import NUM_EVENTS, InstanceRecord, State


@njit(cache=True, forceinline=True)
def may_schedule(instance: InstanceRecord) -> bool:
    """Whether the next step can be chosen before one in flight has ended."""
    return (
        instance.num_in_flight < instance.max_in_flight
        and not instance.is_stalled
        and instance.num_running + instance.num_waiting > 0
    )


@njit(cache=True, forceinline=True)
def advance_instance(state: State, index: int, until_s: float) -> None:
    """Run one instance's steps that begin before ``until_s``; end those that end by then."""
    instance = state.instances[index]
    while True:
        while may_schedule(instance) and instance.free_at_s < until_s:
            schedule(state, index)
        if only_decodes(instance):
            if instance.num_steps >= instance.looks_from_step:
                look_ahead(state, index)
            if worth_skipping(instance, until_s):
                skip_decodes(state, index, until_s)
        if instance.num_in_flight == 0 or instance.step_ends_at_s > until_s:
            break
        finish_step(state, index)
    wakes_at_s = instance.step_ends_at_s
    if may_schedule(instance):
        wakes_at_s = min(wakes_at_s, instance.free_at_s)
    elif only_decodes(instance):
        wakes_at_s = quiet_until_s(instance)
    state.wakes_at_s[index] = wakes_at_s


@njit(cache=True, forceinline=True)
def advance_all(state: State, until_s: float) -> None:
    """Run every instance up to ``until_s``."""
    state = borrowed(state)
    for index in range(state.instances.shape[0]):
        advance_instance(state, index, until_s)


@njit(cache=True, forceinline=True)
def advance_woken(state: State, until_s: float) -> None:
    """Run those instances on which more happens by ``until_s`` than that requests get tokens and blocks.

    The events are those of ``advance_all``, and so are ``num_running`` and ``num_waiting``. The other
    instances are left behind, and take up what they have missed when they are advanced next.
    """
    state = borrowed(state)
    for index in range(state.instances.shape[0]):
        if state.wakes_at_s[index] <= until_s:
            advance_instance(state, index, until_s)


@njit(cache=True, forceinline=True)
def advance_to_completion(state: State, until_s: float) -> float:
    """Run as ``advance_woken`` does, to the first completion or ``until_s``; return the instant reached."""
    state = borrowed(state)
    while True:
        next_s = until_s
        for index in range(state.instances.shape[0]):
            if state.wakes_at_s[index] >= next_s:
                continue
            instance = state.instances[index]
            while (  # once is enough, but for a step in which everybody was preempted
                instance.num_in_flight == 0 and may_schedule(instance) and instance.free_at_s < until_s
            ):
                schedule(state, index)
            next_s = min(next_s, max(instance.step_ends_at_s, state.wakes_at_s[index]))
        first_event = state.counts[NUM_EVENTS]
        advance_woken(state, next_s)
        for event in range(first_event, state.counts[NUM_EVENTS]):
            if state.events[event].is_completion:
                return next_s
        if next_s == until_s:
            return until_s
