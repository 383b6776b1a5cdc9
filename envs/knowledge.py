"""What one router knows of its instances, as arrays, and the compiled functions that keep it up to date.

``envs.router_view.RouterView`` is one router's knowledge under the names of its requests;
``envs.vector_step`` keeps that of many routers. Both call these functions, so that they see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

import envs.emulator  # noqa: F401 (it says where compiled functions are kept)
from envs import observation as columns
from envs.cluster import InstanceTraits
from envs.fading import faded, per_s
from envs.observation import INSTANCE_FEATURES, INSTANCE_HIGH, INSTANCE_LOW

SAME_SCRAPE_S = 1e-6
"""Scrapes closer than this are one: a snapshot tells its age, and time less age is not exact."""

NO_TENANT = -1

INSTANCE_DTYPE = np.dtype(
    [
        ("max_model_len", "i8"),
        ("healthy", "?"),
        ("scraped_at_s", "f8"),
        ("ttft_s", "f8"),  # fading sums of TTFT and of requests ...
        ("ttft_weight", "f8"),
        ("ttft_at_s", "f8"),  # ... as of the last first token
        ("tokens", "f8"),  # fading sum of the tokens of completed requests ...
        ("tokens_at_s", "f8"),  # ... as of the last completion
    ]
)
"""What is known of an instance beside its row of features."""

FLIGHT_DTYPE = np.dtype(
    [
        ("instance", "i8"),
        ("arrived_at_s", "f8"),
        ("num_prompt_tokens", "i8"),
        ("num_uncached_tokens", "i8"),
        ("is_decoding", "?"),
    ]
)
"""A request in flight: what it adds to its instance's row."""

ARRIVALS, TOKENS, FIRST_TENANT = 0, 1, 2
"""Rows of ``Knowledge.fading``."""


class Knowledge(NamedTuple):
    """One router's memory but for its prefix index."""

    table: NDArray[np.float64]
    """``[num_instances, num_instance_features]``: the features, those of the next request not yet filled."""
    instances: NDArray[np.void]
    """INSTANCE_DTYPE ``[num_instances]``."""
    fading: NDArray[np.float64]
    """``[2 + num_tenants, 2]``: (amount, at_s) of arrivals, of prompt tokens, and of each tenant's."""
    flights: NDArray[np.void]
    """FLIGHT_DTYPE ``[num_slots]``."""


def blank_knowledge(
    traits: Sequence[InstanceTraits], num_tenants: int, num_slots: int, shape: tuple[int, ...] = ()
) -> Knowledge:
    """What is known before the first request; with a ``shape``, an array of such memories."""
    table = np.zeros((len(traits), len(INSTANCE_FEATURES)))
    instances = np.zeros(len(traits), INSTANCE_DTYPE)
    for row, instance, trait in zip(table, instances, traits, strict=True):
        _describe(row, instance, trait)
        instance["healthy"] = True
    return Knowledge(
        table=np.broadcast_to(table, (*shape, *table.shape)).copy(),
        instances=np.broadcast_to(instances, (*shape, *instances.shape)).copy(),
        fading=np.zeros((*shape, FIRST_TENANT + num_tenants, 2)),
        flights=np.zeros((*shape, num_slots), FLIGHT_DTYPE),
    )


def join(knowledge: Knowledge, number: int, trait: InstanceTraits, is_new: bool) -> None:
    """Take in what an instance is; of one that is new in its place, forget all that was known there."""
    if is_new:
        knowledge.table[number] = 0.0
        knowledge.instances[number] = np.zeros((), INSTANCE_DTYPE)
    _describe(knowledge.table[number], knowledge.instances[number], trait)


def _describe(row: NDArray[np.float64], instance: Any, trait: InstanceTraits) -> None:
    row[columns.PREFILL_TOKENS_PER_S] = trait.prefill_tokens_per_s
    row[columns.DECODE_STEP_S] = trait.decode_step_s
    row[columns.NUM_KV_CACHE_TOKENS] = trait.num_blocks * trait.block_size
    row[columns.PREFIX_CACHING] = trait.prefix_caching
    instance["max_model_len"] = trait.max_model_len


@njit(cache=True, forceinline=True)
def know_nothing(knowledge: Any) -> None:
    """Go back to what is known before the first request."""
    knowledge.table[:, : columns.PREFILL_TOKENS_PER_S] = 0.0  # what follows is the profile
    for number in range(knowledge.instances.shape[0]):
        instance = knowledge.instances[number]
        instance.healthy = True
        instance.scraped_at_s = 0.0
        instance.ttft_s = 0.0
        instance.ttft_weight = 0.0
        instance.ttft_at_s = 0.0
        instance.tokens = 0.0
        instance.tokens_at_s = 0.0
    knowledge.fading[:] = 0.0


@njit(cache=True, forceinline=True)
def scraped(
    knowledge: Any,
    num_waiting: NDArray[np.int64],
    num_running: NDArray[np.int64],
    frac_kv_cache_usage: NDArray[np.float64],
    frac_prefix_hits: NDArray[np.float64],
    age_s: NDArray[np.float64],
    healthy: NDArray[np.bool_],
    now_s: float,
) -> None:
    """Write the gauges of the instances that were scraped anew into their rows."""
    for number in range(knowledge.instances.shape[0]):
        instance = knowledge.instances[number]
        instance.healthy = healthy[number]
        if now_s - age_s[number] <= instance.scraped_at_s + SAME_SCRAPE_S:
            continue
        row = knowledge.table[number]
        instance.scraped_at_s = now_s - age_s[number]
        row[columns.NUM_WAITING] = num_waiting[number]
        row[columns.NUM_RUNNING] = num_running[number]
        row[columns.FRAC_KV_CACHE_USAGE] = frac_kv_cache_usage[number]
        row[columns.FRAC_PREFIX_HITS] = frac_prefix_hits[number]
        row[columns.NUM_SENT_SINCE_SCRAPE] = 0.0
        row[columns.NUM_TOKENS_SENT_SINCE_SCRAPE] = 0.0


@njit(cache=True, forceinline=True)
def look(
    knowledge: Any,
    num_prompt_tokens: int,
    turn: int,
    tenant: int,
    session_id: int,
    hit_tokens: NDArray[np.int64],
    hit_used_at_s: NDArray[np.float64],
    now_s: float,
    half_life_s: float,
    instances: NDArray[np.float32],
    request: NDArray[np.float32],
    mask: NDArray[np.int8],
) -> None:
    """Write what a policy may see of a request and the fleet now.

    ``tenant`` is its row of ``fading`` less ``FIRST_TENANT``, or ``NO_TENANT`` before its first request.
    Rows of the outputs beyond the instances are left as they are: 0.
    """
    for number in range(knowledge.instances.shape[0]):
        known, row = knowledge.instances[number], knowledge.table[number]
        num_hits = min(hit_tokens[number], num_prompt_tokens - 1)
        row[columns.SNAPSHOT_AGE_S] = now_s - known.scraped_at_s
        row[columns.FRAC_PREFIX_HIT] = num_hits / num_prompt_tokens
        row[columns.PREFIX_AGE_S] = now_s - hit_used_at_s[number]
        row[columns.NUM_UNCACHED_TOKENS] = num_prompt_tokens - num_hits
        row[columns.RECENT_TOKENS_PER_S] = per_s(
            faded(known.tokens, known.tokens_at_s, now_s, half_life_s), half_life_s
        )
        for column in range(row.shape[0]):
            instances[number, column] = min(max(row[column], INSTANCE_LOW[column]), INSTANCE_HIGH[column])
        mask[number] = known.healthy and num_prompt_tokens < known.max_model_len
    fading, share = knowledge.fading, 0.0
    total = faded(fading[TOKENS, 0], fading[TOKENS, 1], now_s, half_life_s)
    if tenant != NO_TENANT and total > 0.0:
        own = fading[FIRST_TENANT + tenant]
        share = min(faded(own[0], own[1], now_s, half_life_s) / total, 1.0)
    arrivals = faded(fading[ARRIVALS, 0], fading[ARRIVALS, 1], now_s, half_life_s)
    request[columns.NUM_PROMPT_TOKENS] = num_prompt_tokens
    request[columns.TURN] = turn
    request[columns.FRAC_TENANT_SHARE] = share
    request[columns.ARRIVALS_PER_S] = per_s(arrivals, half_life_s)
    request[columns.SESSION_KEY] = session_id & 0xFFFFFF if session_id >= 0 else -1


@njit(cache=True, forceinline=True)
def _add(sum_and_instant: NDArray[np.float64], amount: float, now_s: float, half_life_s: float) -> None:
    sum_and_instant[0] = faded(sum_and_instant[0], sum_and_instant[1], now_s, half_life_s) + amount
    sum_and_instant[1] = now_s


@njit(cache=True, forceinline=True)
def sent(
    knowledge: Any,
    slot: int,
    instance: int,
    arrived_at_s: float,
    num_prompt_tokens: int,
    tenant: int,
    num_hit_tokens: int,
    now_s: float,
    half_life_s: float,
) -> None:
    """Note that the request last looked at was sent to an instance.

    ``slot`` becomes its row of ``flights``; ``num_hit_tokens`` are those that the look said of the instance.
    """
    num_uncached_tokens = num_prompt_tokens - min(num_hit_tokens, num_prompt_tokens - 1)
    row = knowledge.table[instance]
    row[columns.NUM_IN_FLIGHT] += 1
    row[columns.NUM_IN_FLIGHT_PREFILLS] += 1
    row[columns.NUM_IN_FLIGHT_PREFILL_TOKENS] += num_prompt_tokens
    row[columns.NUM_IN_FLIGHT_UNCACHED_TOKENS] += num_uncached_tokens
    row[columns.NUM_SENT_SINCE_SCRAPE] += 1
    row[columns.NUM_TOKENS_SENT_SINCE_SCRAPE] += num_prompt_tokens
    flight = knowledge.flights[slot]
    flight.instance = instance
    flight.arrived_at_s = arrived_at_s
    flight.num_prompt_tokens = num_prompt_tokens
    flight.num_uncached_tokens = num_uncached_tokens
    flight.is_decoding = False
    _add(knowledge.fading[ARRIVALS], 1.0, now_s, half_life_s)
    _add(knowledge.fading[TOKENS], num_prompt_tokens, now_s, half_life_s)
    _add(knowledge.fading[FIRST_TENANT + tenant], num_prompt_tokens, now_s, half_life_s)


@njit(cache=True, forceinline=True)
def _end_prefill(row: NDArray[np.float64], flight: Any) -> None:
    row[columns.NUM_IN_FLIGHT_PREFILLS] -= 1
    row[columns.NUM_IN_FLIGHT_PREFILL_TOKENS] -= flight.num_prompt_tokens
    row[columns.NUM_IN_FLIGHT_UNCACHED_TOKENS] -= flight.num_uncached_tokens


@njit(cache=True, forceinline=True)
def first_token(knowledge: Any, slot: int, at_s: float, half_life_s: float) -> None:
    """Note that the first token of the request in a slot came."""
    flight = knowledge.flights[slot]
    row, instance = knowledge.table[flight.instance], knowledge.instances[flight.instance]
    _end_prefill(row, flight)
    row[columns.NUM_IN_FLIGHT_DECODE_TOKENS] += flight.num_prompt_tokens
    flight.is_decoding = True
    old_s = instance.ttft_at_s
    instance.ttft_s = faded(instance.ttft_s, old_s, at_s, half_life_s) + (at_s - flight.arrived_at_s)
    instance.ttft_weight = faded(instance.ttft_weight, old_s, at_s, half_life_s) + 1.0
    instance.ttft_at_s = at_s
    row[columns.RECENT_TTFT_S] = instance.ttft_s / instance.ttft_weight


@njit(cache=True, forceinline=True)
def completed(knowledge: Any, slot: int, num_output_tokens: int, at_s: float, half_life_s: float) -> None:
    """Note that the request in a slot has its last token, or that it failed (``num_output_tokens`` 0)."""
    flight = knowledge.flights[slot]
    row, instance = knowledge.table[flight.instance], knowledge.instances[flight.instance]
    row[columns.NUM_IN_FLIGHT] -= 1
    if flight.is_decoding:
        row[columns.NUM_IN_FLIGHT_DECODE_TOKENS] -= flight.num_prompt_tokens
    else:
        _end_prefill(row, flight)
    if num_output_tokens > 0:
        instance.tokens = faded(instance.tokens, instance.tokens_at_s, at_s, half_life_s)
        instance.tokens += flight.num_prompt_tokens + num_output_tokens
        instance.tokens_at_s = at_s
