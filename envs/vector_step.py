"""The compiled functions of many routing worlds: each does to one world what ``RoutingEnv`` does to its own.

They let go of Python's interpreter lock and touch only the worlds they are asked for, so that threads may
take different worlds at the same time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.engine import advance_instance
from envs.emulator.intake import hand_over, release_slot, take_slot
from envs.emulator.prefix_cache import count_cached_blocks
from envs.emulator.row import row_of
from envs.emulator.state import NONE, NUM_EVENTS, State
from envs.knowledge import completed, first_token, know_nothing, look, scraped, sent
from envs.prefix_index import Keys, forget, insert, match
from envs.vector_state import Gauges, Stream, Worlds

BEGIN, STEP, REST = 0, 1, 2
"""What a world is to do."""

FEW_EVENTS = 32
"""So many are sorted by insertion, which is faster for the usual two or three."""


class Rules(NamedTuple):
    """What all worlds have in common."""

    block_size: int
    scrape_interval_s: float
    half_life_s: float
    keys: Keys
    exact_prefix_hits: bool
    gauges_at_steps: bool


@njit(cache=True, forceinline=True)
def _scrape(state: State, gauges: Gauges, at_steps: bool) -> None:
    for number in range(state.instances.shape[0]):
        instance = state.instances[number]
        num_free, num_blocks = instance.num_free_blocks, instance.num_blocks
        num_hit, num_queried = instance.num_hit_tokens, instance.num_queried_tokens
        gauges.num_waiting[number] = instance.num_waiting
        gauges.num_running[number] = instance.num_running
        if at_steps:
            num_free = instance.told_free_blocks
            num_hit, num_queried = instance.told_hit_tokens, instance.told_queried_tokens
            gauges.num_waiting[number] = instance.told_waiting
            gauges.num_running[number] = instance.told_running
        gauges.frac_kv_cache_usage[number] = 1.0 - num_free / num_blocks
        gauges.frac_prefix_hits[number] = num_hit / max(num_queried, 1)


@njit(cache=True, forceinline=True)
def _hashes(stream: Stream, row: int, limit: int) -> NDArray[np.int64]:
    """A request's block hashes, ``limit`` of them at most."""
    first = stream.hash_offsets[row]
    return stream.hashes[first : min(first + limit, stream.hash_offsets[row + 1])]


@njit(cache=True, forceinline=True)
def _send(world: Worlds, rules: Rules, stream: Stream, action: int, propensity: float) -> bool:
    """Submit the present request to an instance, unless there is no room for it."""
    episode = world.episode[0]
    state = world.state
    row = episode.first + episode.num_sent
    num_prompt_tokens = stream.num_prompt_tokens[row]
    arrived_at_s = stream.arrived_at_s[row] - stream.arrived_at_s[episode.first]
    slot = take_slot(
        state,
        episode.num_sent,
        num_prompt_tokens,
        stream.num_output_tokens[row],
        arrived_at_s,
        stream.hashes[stream.hash_offsets[row] : stream.hash_offsets[row + 1]],
        0,
    )
    if slot == NONE:
        return False
    hand_over(state, slot, action, episode.now_s)
    sent(
        world.knowledge,
        slot,
        action,
        arrived_at_s,
        num_prompt_tokens,
        stream.tenant_number[row],
        world.desk.hit_tokens[action],
        episode.now_s,
        rules.half_life_s,
    )
    if state.instances[action].prefix_caching:
        hashes = _hashes(stream, row, num_prompt_tokens // rules.block_size)
        insert(world.prefixes, rules.keys, action, hashes, episode.now_s)
    world.desk.propensities[slot] = propensity
    episode.num_sent += 1
    episode.num_waiting += 1
    episode.num_in_flight += 1
    return True


@njit(cache=True, forceinline=True)
def _pass_time(world: Worlds, rules: Rules, stream: Stream) -> None:
    """Run a world until its next request arrives or, after the last one, until nothing is in flight."""
    episode = world.episode[0]
    state = world.state
    is_over = episode.num_sent == stream.num_requests
    if is_over:
        until_s, last_scrape = np.inf, episode.num_scrapes + 1
    else:
        until_s = stream.arrived_at_s[episode.first + episode.num_sent] - stream.arrived_at_s[episode.first]
        last_scrape = int(until_s / rules.scrape_interval_s) + 1  # rounding: may be off by one
        while last_scrape * rules.scrape_interval_s > until_s:
            last_scrape -= 1
    num_seen, num_completed, completed_at_s = 0, 0, 0.0
    while True:
        is_arrival = last_scrape <= episode.num_scrapes  # earlier scrapes would be overwritten unseen
        stop_s = until_s if is_arrival else last_scrape * rules.scrape_interval_s
        wants_everyone = not is_arrival or rules.exact_prefix_hits
        for index in range(state.instances.shape[0]):
            if wants_everyone or state.wakes_at_s[index] <= stop_s:
                advance_instance(state, index, stop_s)
        if is_arrival:
            episode.now_s = until_s
            return
        if is_over:
            for event in range(num_seen, state.counts[NUM_EVENTS]):
                if state.events[event].is_completion:
                    num_completed += 1
                    completed_at_s = max(completed_at_s, state.events[event].at_s)
            num_seen = state.counts[NUM_EVENTS]
        has_ended = is_over and num_completed == episode.num_in_flight
        if not has_ended or completed_at_s == stop_s:
            _scrape(state, world.gauges, rules.gauges_at_steps)
            episode.num_scrapes = last_scrape
        if has_ended:
            episode.now_s = completed_at_s
            return
        if is_over:
            last_scrape += 1


@njit(cache=True, forceinline=True)
def _in_order_of_time(state: State, num_events: int) -> NDArray[np.int64]:
    """The numbers of the events, those of one instant as they stand."""
    if num_events > FEW_EVENTS:
        return np.argsort(state.events[:num_events]["at_s"], kind="mergesort")
    order = np.empty(num_events, np.int64)
    for number in range(num_events):
        place = number
        while place > 0 and state.events[order[place - 1]].at_s > state.events[number].at_s:
            order[place] = order[place - 1]
            place -= 1
        order[place] = number
    return order


@njit(cache=True, forceinline=True)
def _take_events(world: Worlds, rules: Rules, stream: Stream, began_at_s: float) -> None:
    """Let the router learn what happened since ``began_at_s``, and write down the interval."""
    episode, outcomes = world.episode[0], world.desk.outcomes
    state, knowledge = world.state, world.knowledge
    duration_s = episode.now_s - began_at_s
    waiting_request_s = episode.num_waiting * duration_s
    in_flight_request_s = episode.num_in_flight * duration_s
    not_waited_s, not_in_flight_s, num_completed = 0.0, 0.0, 0
    num_events = state.counts[NUM_EVENTS]
    state.counts[NUM_EVENTS] = 0
    for number in _in_order_of_time(state, num_events):
        event = state.events[number]
        if not event.is_completion:
            first_token(knowledge, event.slot, event.at_s, rules.half_life_s)
            not_waited_s += episode.now_s - event.at_s
            episode.num_waiting -= 1
            continue
        request = state.requests[event.slot]
        completed(knowledge, event.slot, request.num_output_tokens, event.at_s, rules.half_life_s)
        not_in_flight_s += episode.now_s - event.at_s
        outcome = outcomes[num_completed]
        outcome.decision_id = request.request_id
        outcome.propensity = world.desk.propensities[event.slot]
        outcome.instance = event.instance
        outcome.num_prompt_tokens = request.num_prompt_tokens
        outcome.num_output_tokens = request.num_output_tokens
        outcome.num_cached_tokens = request.num_cached_tokens
        outcome.num_preemptions = request.num_preemptions
        outcome.arrived_at_s = request.arrived_at_s
        outcome.ttft_s = request.first_token_at_s - request.arrived_at_s
        outcome.tpot_s = (event.at_s - request.first_token_at_s) / max(request.num_output_tokens - 1, 1)
        outcome.e2e_s = event.at_s - request.arrived_at_s
        outcome.slo_met = outcome.ttft_s <= stream.slo_ttft_s and outcome.tpot_s <= stream.slo_tpot_s
        outcome.tenant = stream.tenant[episode.first + request.request_id]
        num_completed += 1
        release_slot(state, event.slot)
    episode.num_in_flight -= num_completed
    episode.num_completed = num_completed
    episode.duration_s = duration_s
    episode.waiting_request_s = waiting_request_s - not_waited_s
    episode.in_flight_request_s = in_flight_request_s - not_in_flight_s


@njit(cache=True, forceinline=True)
def _observe(world: Worlds, rules: Rules, stream: Stream) -> None:
    """Look at the present request; after the last one, once more at that."""
    episode, gauges = world.episode[0], world.gauges
    row = episode.first + min(episode.num_sent, stream.num_requests - 1)
    now_s, num_prompt_tokens = episode.now_s, stream.num_prompt_tokens[row]
    knowledge = world.knowledge
    gauges.age_s[:] = now_s - episode.num_scrapes * rules.scrape_interval_s
    scraped(
        knowledge,
        gauges.num_waiting,
        gauges.num_running,
        gauges.frac_kv_cache_usage,
        gauges.frac_prefix_hits,
        gauges.age_s,
        gauges.healthy,
        now_s,
    )
    hit_tokens, hit_used_at_s = world.desk.hit_tokens, world.desk.hit_used_at_s
    if rules.exact_prefix_hits:
        hashes = _hashes(stream, row, (num_prompt_tokens - 1) // rules.block_size)
        count_cached_blocks(world.state, hashes, hit_tokens)
        for instance in range(hit_tokens.shape[0]):
            hit_tokens[instance] *= rules.block_size
            hit_used_at_s[instance] = now_s if hit_tokens[instance] > 0 else -np.inf
    else:
        hashes = _hashes(stream, row, num_prompt_tokens // rules.block_size)
        match(world.prefixes, rules.keys, hashes, now_s, hit_tokens, hit_used_at_s)
    look(
        knowledge,
        num_prompt_tokens,
        stream.turn[row],
        stream.tenant_number[row],
        stream.session_id[row],
        hit_tokens,
        hit_used_at_s,
        now_s,
        rules.half_life_s,
        world.desk.instances,
        world.desk.request,
        world.desk.mask,
    )


@njit(cache=True, forceinline=True)
def _begin(world: Worlds) -> None:
    """Forget the last episode; the emulated cluster is at time 0, ``episode.first`` is that of the next."""
    know_nothing(world.knowledge)
    forget(world.prefixes)
    _scrape(world.state, world.gauges, False)
    episode = world.episode[0]
    episode.num_sent = 0
    episode.num_scrapes = 0
    episode.num_waiting = 0
    episode.num_in_flight = 0
    episode.num_completed = 0
    episode.now_s = 0.0


@njit(cache=True, nogil=True)
def play(
    worlds: Worlds,
    rules: Rules,
    stream: Stream,
    tasks: NDArray[np.int8],
    actions: NDArray[np.int64],
    propensities: NDArray[np.float64],
    first: int,
    stop: int,
) -> int:
    """Let the worlds from ``first`` up to before ``stop`` do what ``tasks`` says.

    Returns the first world whose request found no room (it and those after it have done nothing), else
    ``stop``. Actions, one per world, must be valid.
    """
    for number in range(first, stop):
        world = row_of(worlds, number)
        if tasks[number] == BEGIN:
            _begin(world)
            _observe(world, rules, stream)
        elif tasks[number] == STEP:
            began_at_s = world.episode[0].now_s
            if not _send(world, rules, stream, actions[number], propensities[number]):
                return number
            _pass_time(world, rules, stream)
            _take_events(world, rules, stream, began_at_s)
            _observe(world, rules, stream)
    return stop
