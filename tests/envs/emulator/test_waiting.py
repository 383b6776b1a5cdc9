import numpy as np
import pytest
from numba import njit

from envs.emulator.state import NONE
from envs.emulator.waiting import enqueue, put_back, remove, take_head

from .toy import toy_cluster


@njit
def call(state, what, slot):
    instance = state.instances[0]
    if what == 0:
        enqueue(state, instance, slot)
    elif what == 1:
        put_back(state, instance, slot)
    elif what == 2:
        take_head(state, instance)
    else:
        remove(state, instance, slot)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_the_queue_keeps_its_order(policy):
    """Against a sorted list; of a first-come list only those at the head are ever removed out of turn."""
    rng = np.random.default_rng(0)
    state = toy_cluster(policy=policy).state
    instance, requests = state.instances[0], state.requests
    requests["request_id"] = np.arange(len(requests))
    requests["priority"] = rng.integers(0, 4, len(requests))
    requests["arrived_at_s"] = rng.integers(0, 50, len(requests))
    queue, absent = [], list(range(200))

    def key(slot):
        return tuple(requests[["priority", "arrived_at_s", "request_id"]][slot].tolist())

    for _ in range(20_000):
        what = int(rng.integers(4)) if queue else 0
        if what <= 1:
            if not absent:
                continue
            slot = absent.pop(int(rng.integers(len(absent))))
            queue.insert(0 if what else len(queue), slot)
            if policy == "priority":
                queue.sort(key=key)
        else:
            slot = queue.pop(0 if what == 2 else int(rng.integers(len(queue))))
            absent.append(slot)
        call(state, what, slot)
        assert instance["num_waiting"] == len(queue)
        assert not queue or instance["waiting_head"] == queue[0]
    while queue:
        assert instance["waiting_head"] == queue.pop(0)
        call(state, 2, NONE)
