from math import inf
from time import perf_counter

import numpy as np
import pytest

from envs.cluster import Slo
from envs.workload.generator import generate
from envs.workload.replay import Replay
from envs.workload.trace import Trace


@pytest.fixture(scope="module")
def trace():
    return generate(np.random.default_rng(0), num_requests=300, num_tenants=3)


def popped(stream, seed=0):
    stream.reset(np.random.default_rng(seed))
    requests = []
    while not stream.exhausted:
        at = stream.next_arrival_at_s()
        requests.append(stream.pop())
        assert requests[-1].arrived_at_s == at
    assert stream.next_arrival_at_s() == inf
    return requests


def key(request):
    return (
        request.request_id,
        request.arrived_at_s,
        request.num_prompt_tokens,
        request.block_hashes.tobytes(),
    )


def test_whole_trace_comes_in_order_from_instant_0(trace):
    requests = popped(Replay(trace, slo=Slo(1.0, 0.5)))
    assert len(requests) == 300
    for i, request in enumerate(requests):
        row = trace.request(i, 16)
        assert request.arrived_at_s == row.arrived_at_s - trace.arrived_at_s[0]
        for name in ("request_id", "num_prompt_tokens", "num_output_tokens", "session_id", "turn", "tenant"):
            assert getattr(request, name) == getattr(row, name)
        assert np.array_equal(request.block_hashes, row.block_hashes)
        assert request.slo == Slo(1.0, 0.5)


def test_every_reset_from_the_first_gives_the_same_stream(trace):
    stream = Replay(trace, num_requests=50)
    assert list(map(key, popped(stream, 1))) == list(map(key, popped(stream, 2)))
    assert stream.num_requests == 50


def test_random_start_gives_a_stretch_per_seed(trace):
    stream = Replay(trace, num_requests=50, start="random")
    one, other = popped(stream, 1), popped(stream, 2)
    assert list(map(key, one)) == list(map(key, popped(stream, 1)))
    assert [r.num_prompt_tokens for r in one] != [r.num_prompt_tokens for r in other]
    for requests in (one, other):
        assert (len(requests), requests[0].request_id, requests[0].arrived_at_s) == (50, 0, 0.0)
        lengths = [r.num_prompt_tokens for r in requests]
        assert any(lengths == trace.num_prompt_tokens[i : i + 50].tolist() for i in range(251))
    assert stream.notes[-1] == "50 consecutive requests from a random start"


def test_stretch_tells_which_requests_of_the_trace_came(trace):
    whole = Replay(trace)
    assert (whole.first, whole.stretch, whole.source_rows().tolist()) == (0, range(300), list(range(300)))
    stream = Replay(trace.window(0.0, 30.0).repeated(3), num_requests=50, start="random")
    num = len(stream.trace) // 3
    firsts = set()
    for seed in range(8):
        requests = popped(stream, seed)
        assert stream.stretch == range(stream.first, stream.first + 50)
        assert stream.source_rows().tolist() == [row % num for row in stream.stretch]
        lengths = trace.num_prompt_tokens[stream.source_rows()].tolist()
        assert [request.num_prompt_tokens for request in requests] == lengths
        firsts.add(stream.first)
    assert len(firsts) > 1


def test_rate_factor_makes_arrivals_denser(trace):
    plain, dense = popped(Replay(trace)), popped(Replay(trace, rate_factor=4.0))
    assert dense[-1].arrived_at_s == pytest.approx(plain[-1].arrived_at_s / 4.0)


def test_open_loop_takes_no_notice_of_completions(trace):
    stream = Replay(trace)
    assert not stream.closed_loop
    assert stream.observe(None) is None


def test_misuse_is_refused(trace):
    with pytest.raises(ValueError, match="num_requests is 301, the trace has 300"):
        Replay(trace, num_requests=301)
    with pytest.raises(ValueError, match="num_requests is 0"):
        Replay(trace, num_requests=0)
    with pytest.raises(ValueError, match="start is 'last'"):
        Replay(trace, start="last")
    stream = Replay(Trace(np.array([2.0]), np.array([5]), np.array([6])))
    assert stream.pop().arrived_at_s == 0.0
    with pytest.raises(RuntimeError, match="reset the workload"):
        stream.pop()


def test_pop_is_cheap():
    num = 20_000
    stream = Replay(generate(np.random.default_rng(0), num_requests=num, hash_block_tokens=512))
    best_s = inf
    for _ in range(3):
        stream.reset(np.random.default_rng(0))
        began = perf_counter()
        for _ in range(num):
            stream.pop()
        best_s = min(best_s, (perf_counter() - began) / num)
    assert best_s < 20e-6  # some 2 us on an idle core; the margin is for busy machines
