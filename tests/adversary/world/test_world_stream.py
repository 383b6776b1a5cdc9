"""The requests of an attacked world, against the trace they come from and numbers worked out by hand."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adversary.threat import UnitPositions
from adversary.world.stream import AttackedStream, stream_rng
from adversary.world.threat import WorldThreat
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.workload import sessions
from envs.workload.replay import Replay
from envs.workload.trace import Trace

from .worlds import FLEET, requests, threat


def popped(stream):
    found = []
    while not stream.exhausted:
        assert stream.next_arrival_at_s() == pytest.approx(stream._requests[stream._next].arrived_at_s)
        found.append(stream.pop())
    assert stream.next_arrival_at_s() == np.inf
    return found


def played(stream, values, seed=0):
    """All requests of an attack that is given at once."""
    stream.forget()
    stream.reset(stream_rng(seed))
    for row in values:
        stream.give(row)
    return popped(stream)


def told(request):
    """All there is of a request, comparable."""
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    return values | {"block_hashes": request.block_hashes.tolist()}


def toy(times, prompts=None, hashes=None, num_windows=2, **knobs):
    """Two windows of 10 s over a trace of 16-token blocks."""
    num = len(times)
    hashes = hashes if hashes is not None else [[] for _ in range(num)]
    trace = Trace(
        np.array(times, float),
        np.array(prompts if prompts is not None else [100] * num),
        np.full(num, 10),
        hash_ids=np.concatenate([np.array(each, np.int64) for each in hashes]),
        hash_offsets=np.cumsum([0, *(len(each) for each in hashes)]),
        hash_block_tokens=16,
    )
    return AttackedStream(Replay(trace), WorldThreat(10.0, num_windows, **knobs))


def test_without_changes_it_is_the_trace():
    base, each = requests(), threat(window_s=0.7, num_windows=13)
    stream = AttackedStream(requests(), each)
    for seed in range(3):
        base.reset(stream_rng(seed))
        plain = [told(base.pop()) for _ in range(250)]
        plain = [request for request in plain if request["arrived_at_s"] < 13 * 0.7]
        assert [told(request) for request in played(stream, each.neutral(4), seed)] == plain
    assert stream.num_requests == len(plain) > 50
    assert stream.notes == (*base.notes, "attacked in 13 windows of 0.7 s")


def test_it_leaves_the_world_the_chance_it_has_without_it():
    rngs = [stream_rng(5), stream_rng(5)]
    requests().reset(rngs[0])
    AttackedStream(requests(), threat()).reset(rngs[1])
    assert rngs[0].spawn(2)[1].random() == rngs[1].spawn(2)[1].random()
    env = RoutingEnv(workload=requests())
    env.reset(seed=5)
    other = requests()
    other.reset(stream_rng(5))
    assert env.workload.first == other.first > 0


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_window_by_window_or_all_at_once_and_within_what_is_asked(attack_seed, seed):
    each = threat()
    rng = np.random.default_rng(attack_seed)
    values = UnitPositions(each.knobs(4)).values(rng.uniform(-1, 1, (5, 22)))
    stream = AttackedStream(requests(), each)
    whole = played(stream, values, seed)

    stream.forget()
    stream.reset(stream_rng(seed))
    found = []
    for window, row in enumerate(values):
        num = stream.give(row)
        stream.reset(stream_rng(seed))  # as the environment does at its beginning
        for _ in range(len(found)):
            stream.pop()
        before = len(found)
        while stream.next_is_known:
            found.append(stream.pop())
        assert len(found) == before + num
        assert all(2.0 * window <= request.arrived_at_s < 2.0 * (window + 1) for request in found[before:])
        if window < 4:
            assert stream.num_requests is None
            with pytest.raises(RuntimeError, match=f"window {window + 1} was not given"):
                stream.next_arrival_at_s()
    assert [told(request) for request in found] == [told(request) for request in whole]

    assert [request.request_id for request in whole] == list(range(len(whole)))
    times = np.array([request.arrived_at_s for request in whole])
    assert (np.diff(times) >= 0).all()
    prefix_of = {}  # equal hash = equal whole prefix
    for request in whole:
        assert (request.block_hashes > 0).all()
        assert len(request.block_hashes) <= request.num_prompt_tokens // 16
        assert 1 <= request.num_prompt_tokens < 8192
        prefix = ()
        for block_hash in request.block_hashes.tolist():
            prefix = hash((prefix, block_hash))
            assert prefix_of.setdefault(block_hash, prefix) == prefix


def test_time_runs_at_the_rate_of_the_window():
    stream = toy(np.arange(0.0, 61.0), rate_factor=[0.5, 2.0])
    times = [request.arrived_at_s for request in played(stream, np.array([[2.0], [0.5]]))]
    # 20 s of the trace in the first window, 5 s in the second: 20, 21, ... come every two seconds
    assert times == [*np.arange(0.0, 10.0, 0.5), 10.0, 12.0, 14.0, 16.0, 18.0]


def test_the_number_of_requests_goes_with_the_rate():
    each = threat(window_s=2.0)
    stream = AttackedStream(requests(), each)
    values = each.neutral(4)
    whole = len(played(stream, values))
    values[:, 0] = 2.0
    assert len(played(stream, values)) == pytest.approx(2 * whole, rel=0.25)


def test_synchronised_requests_come_at_once_in_the_trace_s_order():
    stream = toy(np.arange(0.0, 21.0), prompts=100 + np.arange(21), frac_synchronised=1.0)
    found = played(stream, np.array([[0.0], [1.0]]))
    assert [request.arrived_at_s for request in found] == [*range(10), *([10.0] * 10)]
    assert [request.num_prompt_tokens for request in found] == [*range(100, 120)]


SHARED = [[7, 8, 9]] * 21


def num_hashes(found):
    return len(np.unique(np.concatenate([request.block_hashes for request in found])))


def test_unshared_prompts_share_nothing():
    stream = toy(np.arange(0.0, 21.0), hashes=SHARED, frac_unshared=1.0)
    found = played(stream, np.array([[0.0], [1.0]]))
    assert num_hashes(found[:10]) == 3
    assert num_hashes(found) == 3 + 10 * 3


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 4.0])
def test_the_working_set_grows_by_its_factor(factor):
    stream = toy(np.linspace(0.0, 20.1, 301), hashes=[[7, 8]] * 301, working_set_factor=4.0)
    found = played(stream, np.full((2, 1), factor))
    groups = np.array([request.block_hashes[1] for request in found])
    shares = np.sort(np.unique(groups, return_counts=True)[1] / len(groups))[::-1]
    assert len(shares) == np.ceil(factor)
    assert shares[0] == pytest.approx(1 / factor, abs=0.08)
    originals = played(stream, np.ones((2, 1)))[0].block_hashes.tolist()
    assert originals in [request.block_hashes.tolist() for request in found]


def test_overflow_runs_to_the_cap_for_its_share_of_requests():
    stream = toy(np.linspace(0.0, 20.1, 601), frac_overflow=0.5, overflow_tokens=3000)
    lengths = [request.num_output_tokens for request in played(stream, np.array([[0.0], [0.3]]))]
    first, second = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    assert set(first) == {10}
    assert set(second) == {10, 3000}
    assert second.count(3000) / len(second) == pytest.approx(0.3, abs=0.08)


def test_prompts_are_cut_or_grow_a_tail_that_nobody_shares():
    prompts = [100] * 21
    stream = toy(
        np.arange(0.0, 21.0),
        prompts,
        [[1, 2, 3, 4, 5, 6]] * 21,
        prompt_factor=[0.25, 20.0],
        max_model_len=1000,
    )
    plain = played(stream, np.array([[1.0], [1.0]]))[0].block_hashes.tolist()
    assert len(plain) == 6
    cut, grown = played(stream, np.array([[0.25], [3.0]]))[0::15]
    assert (cut.num_prompt_tokens, cut.block_hashes.tolist()) == (25, plain[:1])
    assert (grown.num_prompt_tokens, grown.block_hashes.tolist()) == (300, plain)
    assert played(stream, np.array([[20.0], [1.0]]))[0].num_prompt_tokens == 990  # with its answer of 10
    stream = toy(np.arange(0.0, 21.0), [2000] * 21, prompt_factor=[0.25, 20.0], max_model_len=1000)
    assert played(stream, np.array([[20.0], [1.0]]))[0].num_prompt_tokens == 2000  # never shortened


def test_the_same_requests_are_hit_whatever_else_is_turned():
    stream = AttackedStream(requests(), threat())
    values = threat().neutral(4)
    values[:, 4] = 0.3
    plain = played(stream, values)
    values[:, 1] = 0.5
    values[:, 2] = 3.0
    again = played(stream, values)
    assert [one.num_output_tokens for one in plain] == [one.num_output_tokens for one in again]


def test_a_trace_that_is_too_short_is_named():
    stream = toy(np.arange(0.0, 36.0), rate_factor=[0.5, 2.0])
    with pytest.raises(ValueError, match=r"lasts 35.0 s, an attack of 20 s may need 40.0 s of it: raise"):
        stream.reset(stream_rng(0))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="the workload is a Sessions"):
        AttackedStream(sessions.workload(), threat())
    stream = toy(np.arange(0.0, 21.0), frac_unshared=1.0)
    played(stream, np.zeros((2, 1)))
    with pytest.raises(ValueError, match="all 2 windows were given"):
        stream.give(np.zeros(1))
    with pytest.raises(RuntimeError, match="no request is left"):
        stream.pop()


def test_it_is_a_workload_of_the_environment():
    each = threat()
    stream = AttackedStream(requests(), each)
    with pytest.raises(RuntimeError, match="call reset before give"):
        stream.give(each.neutral(4)[0])
    played(stream, each.neutral(4))
    env = RoutingEnv(cluster(FLEET), stream)
    for seed in (0, 1, 0):
        env.reset(seed=seed)
        num, done = 0, False
        while not done:
            _, _, done, _, _ = env.step(num % 4)
            num += 1
        assert num == stream.num_requests


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0.0, 0.6), min_size=5, max_size=5), st.integers(0, 9))
def test_never_more_than_the_share_of_a_window_is_hit(fractions, seed):
    each = WorldThreat(
        2.0, 5, frac_unshared=0.6, frac_overflow=0.6, overflow_tokens=999, frac_synchronised=0.6
    )
    base = requests(output_max=300)
    found = played(AttackedStream(base, each), np.repeat(np.array([fractions]).T, 3, axis=1), seed)
    plain = played(AttackedStream(base, each), each.neutral(0), seed)
    assert len(found) == len(plain)
    known = {hash for request in plain for hash in request.block_hashes.tolist()}
    for window, fraction in enumerate(fractions):
        own = [request for request in found if window == request.arrived_at_s // 2.0]
        most = int(fraction * len(own) + 1e-9)
        assert sum(request.num_output_tokens == 999 for request in own) == most
        assert sum(request.arrived_at_s == 2.0 * window for request in own[1:]) <= most
        strange = [r for r in own if len(r.block_hashes) and not known & set(r.block_hashes.tolist())]
        assert len(strange) <= most
