from heapq import heappop, heappush
from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest

from envs.cluster import Completion
from envs.workload.laws import LogNormal
from envs.workload.sessions import Sessions

SMALL = {
    "num_sessions": 12,
    "sessions_per_s": 1.0,
    "turns": LogNormal(4, 0.5, 1, 8),
    "new_tokens": LogNormal(50, 0.5, 1, 200),
    "output": LogNormal(40, 0.5, 1, 200),
    "num_system_tokens": 100,
    "num_prefix_groups": 3,
}


def completion(request, finished_at_s, failure=""):
    return Completion(
        request.request_id, 0, request.arrived_at_s, nan, finished_at_s,
        request.num_prompt_tokens, request.num_output_tokens, 0, 0, request.slo, failure,
    )  # fmt: skip


def lived(stream, seed=0, service_s=lambda request: 1.0, fails=lambda request: False):
    """Run the protocol's loop against servers without a queue; return requests and their finish times."""
    stream.reset(np.random.default_rng(seed))
    in_flight, requests, finished_at_s = [], [], {}
    while not stream.exhausted:
        arrival_s = stream.next_arrival_at_s()
        if in_flight and in_flight[0][0] <= arrival_s:
            at, request_id = heappop(in_flight)
            request = requests[request_id]
            stream.observe(completion(request, at, "refused" if fails(request) else ""))
            continue
        assert arrival_s < inf
        request = stream.pop()
        assert request.arrived_at_s == arrival_s
        requests.append(request)
        finished_at_s[request.request_id] = arrival_s + service_s(request)
        heappush(in_flight, (finished_at_s[request.request_id], request.request_id))
    for at, request_id in in_flight:
        stream.observe(completion(requests[request_id], at))
    assert stream.exhausted
    return requests, finished_at_s


def by_session(requests):
    sessions = {}
    for request in requests:
        sessions.setdefault(request.session_id, []).append(request)
    return sessions


def pauses_of(requests, finished_at_s):
    return {
        (after.session_id, after.turn): after.arrived_at_s - finished_at_s[before.request_id]
        for turns in by_session(requests).values()
        for before, after in pairwise(turns)
    }


def test_next_turn_extends_the_previous_prompt_and_answer():
    stream = Sessions(**SMALL)
    assert stream.num_requests is None
    requests, finished_at_s = lived(stream)
    assert [r.request_id for r in requests] == list(range(stream.num_requests))
    arrivals = [r.arrived_at_s for r in requests]
    assert arrivals == sorted(arrivals)
    num_follow_ups = 0
    for turns in by_session(requests).values():
        assert [r.turn for r in turns] == list(range(1, len(turns) + 1))
        for before, after in pairwise(turns):
            num_before = before.num_prompt_tokens + before.num_output_tokens
            assert after.num_prompt_tokens > num_before
            assert len(before.block_hashes) == num_before // 16
            assert np.array_equal(after.block_hashes[: len(before.block_hashes)], before.block_hashes)
            assert after.arrived_at_s > finished_at_s[before.request_id]
            num_follow_ups += 1
    assert num_follow_ups > 12


def test_pauses_follow_their_law():
    pause_s = LogNormal(10, 0.5, 0, 1000)
    requests, finished_at_s = lived(Sessions(**{**SMALL, "num_sessions": 300}, pause_s=pause_s))
    pauses = list(pauses_of(requests, finished_at_s).values())
    assert np.median(pauses) == pytest.approx(10, rel=0.1)
    assert np.percentile(pauses, 90) == pytest.approx(10 * np.exp(1.2816 * 0.5), rel=0.15)


def test_only_system_prompts_are_shared():
    sessions = by_session(lived(Sessions(**{**SMALL, "num_sessions": 40}))[0])
    last = [turns[-1].block_hashes for turns in sessions.values()]
    assert len({tuple(h[:6]) for h in last}) == 3
    assert {len(set(h.tolist())) == len(h) for h in last} == {True}
    own = np.concatenate([h[6:] for h in last])
    assert len(np.unique(own)) == len(own)


def test_plans_depend_on_the_seed_and_not_on_the_order_of_completions():
    stream = Sessions(**SMALL, num_tenants=3)
    fast, fast_finished_at_s = lived(stream, 5)
    slow, slow_finished_at_s = lived(
        stream, 5, service_s=lambda request: 1.0 + (request.request_id * 37 % 11) * 20.0
    )
    other, _ = lived(stream, 6)

    def plans(requests):
        return {
            session: [
                (r.num_prompt_tokens, r.num_output_tokens, r.tenant, r.block_hashes.tobytes()) for r in turns
            ]
            for session, turns in by_session(requests).items()
        }

    assert plans(fast) == plans(slow) != plans(other)
    assert pauses_of(fast, fast_finished_at_s) == pytest.approx(pauses_of(slow, slow_finished_at_s))
    assert [r.session_id for r in fast] != [r.session_id for r in slow]
    again, _ = lived(stream, 5)
    assert [(r.arrived_at_s, r.session_id) for r in again] == [(r.arrived_at_s, r.session_id) for r in fast]


def test_failure_ends_the_session():
    requests, _ = lived(Sessions(**SMALL), fails=lambda request: request.turn == 2)
    assert max(r.turn for r in requests) == 2


def test_sessions_stay_within_max_model_len():
    stream = Sessions(**{**SMALL, "turns": LogNormal(50, 0.0, 50, 50)}, max_model_len=600)
    requests, _ = lived(stream)
    assert max(r.num_prompt_tokens + r.num_output_tokens for r in requests) <= 600
    assert 12 < len(requests) < 12 * 50


def test_cap_ends_the_stream():
    stream = Sessions(**SMALL, num_requests=15)
    requests, _ = lived(stream)
    assert len(requests) == stream.num_requests == 15
    assert stream.next_arrival_at_s() == inf


def test_not_exhausted_while_an_answer_may_bring_a_turn():
    stream = Sessions(**{**SMALL, "num_sessions": 1, "turns": LogNormal(2, 0.0, 2, 2)})
    stream.reset(np.random.default_rng(0))
    first = stream.pop()
    assert stream.next_arrival_at_s() == inf
    assert not stream.exhausted
    with pytest.raises(RuntimeError, match="observe a completion first"):
        stream.pop()
    stream.observe(completion(first, 50.0))
    assert stream.next_arrival_at_s() > 50.0
    stream.pop()
    assert stream.exhausted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_sessions": 0}, "0 sessions"),
        ({"sessions_per_s": 0.0}, "positive rate"),
        ({"num_requests": 0}, "num_requests is 0"),
        ({"num_system_tokens": -1}, "num_system_tokens is -1"),
        ({"block_size": 0}, "block_size 0"),
        ({"max_model_len": 400}, "a first turn may need 500 tokens"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sessions(**{**SMALL, **settings})
