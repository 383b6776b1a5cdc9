"""One instance's waiting queue, as vLLM V1 keeps it for each of its two policies.

First come, first served: a list; who is preempted goes to its head. By priority: a heap on (priority,
arrival, id), here a pairing heap; who is preempted takes the place that this order gives it. Either lives in
the request records, and the instance's ``waiting_head`` is who comes next.
"""

from __future__ import annotations

from numba import njit

from envs.emulator.state import NONE, InstanceRecord, State


@njit(cache=True, forceinline=True)
def enqueue(state: State, instance: InstanceRecord, slot: int) -> None:
    """Add a request that has just arrived."""
    if instance.by_priority:
        _push(state, instance, slot)
    else:
        state.requests[slot].next_waiting = NONE
        if instance.num_waiting == 0:
            instance.waiting_head = slot
        else:
            state.requests[instance.waiting_tail].next_waiting = slot
        instance.waiting_tail = slot
    instance.num_waiting += 1


@njit(cache=True, forceinline=True)
def put_back(state: State, instance: InstanceRecord, slot: int) -> None:
    """Add a request that was preempted."""
    if instance.by_priority:
        _push(state, instance, slot)
    else:
        state.requests[slot].next_waiting = instance.waiting_head
        if instance.num_waiting == 0:
            instance.waiting_tail = slot
        instance.waiting_head = slot
    instance.num_waiting += 1


@njit(cache=True, forceinline=True)
def take_head(state: State, instance: InstanceRecord) -> None:
    """Remove who comes next."""
    head = instance.waiting_head
    if instance.by_priority:
        instance.waiting_head = _melded(state, state.requests[head].first_behind)
    else:
        instance.waiting_head = state.requests[head].next_waiting
    instance.num_waiting -= 1


@njit(cache=True)
def remove(state: State, instance: InstanceRecord, slot: int) -> None:
    """Remove a request, wherever it stands.

    Only who was preempted is ever removed, so that in a list it is near the head.
    """
    requests = state.requests
    if slot == instance.waiting_head:
        take_head(state, instance)
        return
    request = requests[slot]
    if instance.by_priority:
        before, after = request.prev_waiting, request.next_waiting
        if requests[before].first_behind == slot:
            requests[before].first_behind = after
        else:
            requests[before].next_waiting = after
        if after != NONE:
            requests[after].prev_waiting = before
        behind = _melded(state, request.first_behind)
        if behind != NONE:
            instance.waiting_head = _meld(state, instance.waiting_head, behind)
    else:
        before = instance.waiting_head
        while requests[before].next_waiting != slot:
            before = requests[before].next_waiting
        requests[before].next_waiting = request.next_waiting
        if instance.waiting_tail == slot:
            instance.waiting_tail = before
    instance.num_waiting -= 1


@njit(cache=True)
def _push(state: State, instance: InstanceRecord, slot: int) -> None:
    state.requests[slot].first_behind = NONE
    state.requests[slot].next_waiting = NONE
    if instance.num_waiting == 0:
        instance.waiting_head = slot
    else:
        instance.waiting_head = _meld(state, instance.waiting_head, slot)


@njit(cache=True)
def comes_before(state: State, one: int, other: int) -> bool:
    """The order of the priority policy."""
    first, second = state.requests[one], state.requests[other]
    if first.priority != second.priority:
        return first.priority < second.priority
    if first.arrived_at_s != second.arrived_at_s:
        return first.arrived_at_s < second.arrived_at_s
    return first.request_id < second.request_id


@njit(cache=True)
def _meld(state: State, one: int, other: int) -> int:
    """Put the later of two roots behind the earlier, as the first of those there; return the earlier."""
    requests = state.requests
    if comes_before(state, other, one):
        one, other = other, one
    eldest = requests[one].first_behind
    requests[other].next_waiting = eldest
    if eldest != NONE:
        requests[eldest].prev_waiting = other
    requests[other].prev_waiting = one
    requests[one].first_behind = other
    return one


@njit(cache=True)
def _melded(state: State, first: int) -> int:
    """Meld a root's followers, pairwise and then all; return the new root or NONE."""
    requests = state.requests
    pairs = NONE  # a stack
    while first != NONE:
        second = requests[first].next_waiting
        if second == NONE:
            pair, rest = first, NONE
        else:
            rest = requests[second].next_waiting
            pair = _meld(state, first, second)
        requests[pair].next_waiting = pairs
        pairs, first = pair, rest
    if pairs == NONE:
        return NONE
    root = pairs
    pairs = requests[root].next_waiting
    while pairs != NONE:
        pair = pairs
        pairs = requests[pair].next_waiting
        root = _meld(state, root, pair)
    requests[root].next_waiting = NONE
    return root
