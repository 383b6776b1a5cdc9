"""The memory of many routing worlds: everything that one world is made of, stacked.

Each array of ``envs.emulator.state.State``, ``envs.knowledge.Knowledge`` and ``envs.prefix_index.Index``
has a leading axis ``[num_envs]`` here. Arrays that are as long as there are request slots grow together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.cluster import InstanceTraits
from envs.emulator.intake import with_room as state_with_room
from envs.emulator.state import CACHED, NUM_FREE_SLOTS, State
from envs.knowledge import Knowledge, blank_knowledge
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES
from envs.prefix_index import Index, empty_index
from envs.untouched import untouched
from envs.workload.replay import Replay

EPISODE_DTYPE = np.dtype(
    [
        ("first", "i8"),  # row in the stream of its first request
        ("num_sent", "i8"),  # the next request's id and decision
        ("num_scrapes", "i8"),
        ("num_waiting", "i8"),
        ("num_in_flight", "i8"),
        ("now_s", "f8"),
        # the interval that the last step was
        ("num_completed", "i8"),
        ("duration_s", "f8"),
        ("waiting_request_s", "f8"),
        ("in_flight_request_s", "f8"),
    ]
)
"""Where a world is in its episode."""

OUTCOME_DTYPE = np.dtype(
    [
        ("decision_id", "i8"),
        ("propensity", "f8"),
        ("instance", "i8"),
        ("num_prompt_tokens", "i8"),
        ("num_output_tokens", "i8"),
        ("num_cached_tokens", "i8"),
        ("num_preemptions", "i8"),
        ("arrived_at_s", "f8"),
        ("ttft_s", "f8"),
        ("tpot_s", "f8"),
        ("e2e_s", "f8"),
        ("slo_met", "?"),
        ("tenant", "i8"),
    ]
)
"""A ``Feedback`` but for its ``failure`` and retries: in these worlds nothing fails."""


class Stream(NamedTuple):
    """A trace that every world replays, each from a row of its own."""

    arrived_at_s: NDArray[np.float64]
    num_prompt_tokens: NDArray[np.int64]
    num_output_tokens: NDArray[np.int64]
    session_id: NDArray[np.int64]
    turn: NDArray[np.int64]
    tenant: NDArray[np.int64]
    tenant_number: NDArray[np.int64]
    """The tenant's row in ``Knowledge.fading``, less ``FIRST_TENANT``."""
    hashes: NDArray[np.int64]
    hash_offsets: NDArray[np.int64]
    num_requests: int
    """Of one episode."""
    slo_ttft_s: float
    slo_tpot_s: float


class Gauges(NamedTuple):
    """What the last scrape of each instance said, ``[num_envs, num_instances]``."""

    num_waiting: NDArray[np.int64]
    num_running: NDArray[np.int64]
    frac_kv_cache_usage: NDArray[np.float64]
    frac_prefix_hits: NDArray[np.float64]
    age_s: NDArray[np.float64]
    healthy: NDArray[np.bool_]


class Desk(NamedTuple):
    """What lies before each router."""

    hit_tokens: NDArray[np.int64]
    """``[num_envs, num_instances]``: of the present request, as its look said."""
    hit_used_at_s: NDArray[np.float64]
    propensities: NDArray[np.float64]
    """``[num_envs, num_slots]``: of the requests in flight."""
    outcomes: NDArray[np.void]
    """OUTCOME_DTYPE ``[num_envs, num_slots]``: in order of time, the first ``num_completed`` of each."""
    instances: NDArray[np.float32]
    """``[num_envs, max_instances, num_instance_features]``: with the next two, the observations."""
    request: NDArray[np.float32]
    mask: NDArray[np.int8]


class Worlds(NamedTuple):
    """All of it. Without the leading axes, by ``row_of``, it is one world."""

    state: State
    knowledge: Knowledge
    prefixes: Index
    gauges: Gauges
    desk: Desk
    episode: NDArray[np.void]
    """EPISODE_DTYPE ``[num_envs, 1]``."""


def stream_of(workload: Replay) -> Stream:
    """The columns of a workload."""
    trace = workload.trace
    return Stream(
        arrived_at_s=trace.arrived_at_s,
        num_prompt_tokens=trace.num_prompt_tokens,
        num_output_tokens=trace.num_output_tokens,
        session_id=trace.session_id,
        turn=trace.turn,
        tenant=trace.tenant,
        tenant_number=np.unique(trace.tenant, return_inverse=True)[1].astype(np.int64),
        hashes=workload.hashes,
        hash_offsets=workload.hash_offsets,
        num_requests=workload.num_requests,
        slo_ttft_s=float(workload.slo.ttft_s),
        slo_tpot_s=float(workload.slo.tpot_s),
    )


def blank_worlds(
    pristine: State,
    traits: list[InstanceTraits],
    max_instances: int,
    num_tenants: int,
    prefix_capacity: int,
    num_envs: int,
) -> Worlds:
    """Worlds that ``restore`` must still put in order, each with room as ``pristine`` has."""
    num_slots, each = len(pristine.requests), (num_envs, len(traits))
    return Worlds(
        state=State(*(untouched((num_envs, *array.shape), array.dtype) for array in pristine)),
        knowledge=blank_knowledge(traits, num_tenants, num_slots, (num_envs,)),
        prefixes=empty_index(len(traits), prefix_capacity, (num_envs,)),
        gauges=Gauges(
            np.zeros(each, np.int64),
            np.zeros(each, np.int64),
            np.zeros(each),
            np.zeros(each),
            np.zeros(each),
            np.ones(each, np.bool_),
        ),
        desk=Desk(
            hit_tokens=np.zeros(each, np.int64),
            hit_used_at_s=np.zeros(each),
            propensities=np.zeros((num_envs, num_slots)),
            outcomes=untouched((num_envs, num_slots), OUTCOME_DTYPE),
            instances=np.zeros((num_envs, max_instances, len(INSTANCE_FEATURES)), np.float32),
            request=np.zeros((num_envs, len(REQUEST_FEATURES)), np.float32),
            mask=np.zeros((num_envs, max_instances), np.int8),
        ),
        episode=np.zeros((num_envs, 1), EPISODE_DTYPE),
    )


_NOT_COPIED = {
    "requests",
    "cached_blocks",
    "twins",
    "cache_slots",
    "block_table",
    "running",
    "next_alike",
    "hashes",
    "events",
}
"""Arrays of ``State`` in which an idle instance reads nothing (requests, cache_slots: see ``restore``)."""


def restore(state: State, number: int, pristine: State) -> None:
    """Put one emulated cluster back to time 0: ``pristine``, of as many slots, is as ``clear`` leaves it."""
    if (state.blocks[number]["kind"] >= CACHED).any():  # else its table is empty
        state.cache_slots[number].view(np.uint8).fill(0)
    for name, array in pristine._asdict().items():
        if name not in _NOT_COPIED:
            getattr(state, name)[number].view(np.uint8)[...] = array.view(np.uint8)
    state.requests[number]["num_hashes"] = 0


def with_room(worlds: Worlds, number: int, num_hashes: int) -> Worlds:
    """The worlds with room for one more request of so many hashes in one of them."""
    stack = worlds.state
    before = State(*(array[number] for array in stack))
    own = state_with_room(before, num_hashes)
    replaced = {name: array for name, array in own._asdict().items() if array is not getattr(before, name)}
    new = stack._replace(
        **{name: _lengthened(getattr(stack, name), len(array)) for name, array in replaced.items()}
    )
    num_old, num_slots = stack.requests.shape[1], len(own.requests)
    if num_slots > num_old:
        for other in set(range(len(worlds.episode))) - {number}:
            counts, free_slots = new.counts[other], new.free_slots[other]
            num_free = counts[NUM_FREE_SLOTS]
            free_slots[num_free : num_free + num_slots - num_old] = np.arange(num_old, num_slots)
            counts[NUM_FREE_SLOTS] += num_slots - num_old
        worlds = worlds._replace(
            knowledge=worlds.knowledge._replace(flights=_lengthened(worlds.knowledge.flights, num_slots)),
            desk=worlds.desk._replace(
                propensities=_lengthened(worlds.desk.propensities, num_slots),
                outcomes=_lengthened(worlds.desk.outcomes, num_slots),
            ),
        )
    for name, array in replaced.items():
        getattr(new, name)[number] = array
    return worlds._replace(state=new)


def _lengthened(array: NDArray[Any], length: int) -> NDArray[Any]:
    """The array itself where its second axis is so long, else a copy filled up with zeros."""
    if array.shape[1] == length:
        return array
    longer = untouched((len(array), length, *array.shape[2:]), array.dtype)
    longer[:, : array.shape[1]] = array
    return longer
