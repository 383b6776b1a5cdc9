import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.workload.trace import Trace

MASK = (1 << 64) - 1


def hand_made(**changes):
    """Four requests, 32-token content ids; the first three open alike."""
    columns = {
        "arrived_at_s": np.array([0.0, 1.0, 4.0, 10.0]),
        "num_prompt_tokens": np.array([64, 70, 100, 20]),
        "num_output_tokens": np.array([5, 6, 7, 8]),
        "session_id": np.array([3, -1, 3, 0]),
        "turn": np.array([1, 1, 2, 1]),
        "tenant": np.array([0, 1, 0, 2]),
        "hash_ids": np.array([0, 1, 0, 1, 2, 0, 1, 3, 4, 5]),
        "hash_offsets": np.array([0, 2, 5, 9, 10]),
        "hash_block_tokens": 32,
    }
    return Trace(**{**columns, **changes})


@st.composite
def traces(draw):
    num = draw(st.integers(2, 30))
    block = draw(st.sampled_from([16, 32, 48]))
    gaps = draw(st.lists(st.floats(0.01, 10.0), min_size=num, max_size=num))
    prompts = np.array(draw(st.lists(st.integers(1, 300), min_size=num, max_size=num)))
    outputs = np.array(draw(st.lists(st.integers(1, 50), min_size=num, max_size=num)))
    sessions = np.array(draw(st.lists(st.integers(-1, 5), min_size=num, max_size=num)))
    nums = -(-prompts // block)
    ids = np.array(draw(st.lists(st.integers(0, 9), min_size=int(nums.sum()), max_size=int(nums.sum()))))
    offsets = np.concatenate(([0], np.cumsum(nums)))
    return Trace(
        np.cumsum(gaps), prompts, outputs, sessions,
        hash_ids=ids, hash_offsets=offsets, hash_block_tokens=block,
    )  # fmt: skip


def ids_of(trace, i):
    return trace.hash_ids[trace.hash_offsets[i] : trace.hash_offsets[i + 1]].tolist()


def reference_hash(key):
    z = (key + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return max((z ^ (z >> 31)) >> 1, 1)


def test_optional_columns_have_defaults_and_all_are_read_only():
    trace = Trace(np.array([0.0, 1.0]), np.array([5, 6]), np.array([1, 2]))
    assert (trace.session_id.tolist(), trace.turn.tolist(), trace.tenant.tolist()) == (
        [-1] * 2,
        [1] * 2,
        [0] * 2,
    )
    assert len(trace.block_hashes(0, 16)) == 0
    with pytest.raises(ValueError, match="read-only"):
        trace.arrived_at_s[0] = 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrived_at_s": np.array([])}, "the trace is empty"),
        ({"arrived_at_s": np.array([0.0, 5.0, 4.0, 10.0])}, "arrived_at_s of row 2 is 4.0"),
        ({"arrived_at_s": np.array([-1.0, 1.0, 4.0, 10.0])}, "arrived_at_s of row 0 is -1.0"),
        ({"arrived_at_s": np.array([0.0, np.nan, 4.0, 10.0])}, "arrived_at_s of row 1 is nan"),
        ({"arrived_at_s": np.array([0.0, 1.0, 4.0, np.inf])}, "arrived_at_s of row 3 is inf"),
        ({"num_prompt_tokens": np.array([64, 0, 100, 20])}, "num_prompt_tokens of row 1 is 0"),
        ({"num_output_tokens": np.array([5, 6, 7, 0])}, "num_output_tokens of row 3 is 0"),
        ({"num_output_tokens": np.array([5, 6, 7])}, "num_output_tokens has 3 rows, arrived_at_s has 4"),
        ({"num_output_tokens": np.array([5.0, 6.0, 7.0, 8.0])}, "give whole numbers"),
        ({"tenant": np.array([0, 1, -2, 1])}, "tenant of row 2 is -2"),
        ({"turn": np.array([0, 1, 1, 1])}, "turn of row 0 is 0"),
        ({"session_id": np.array([0, 1, -2, 1])}, "session_id of row 2 is -2"),
        ({"source_row": np.array([0, 1])}, "source_row has 2 rows"),
        ({"hash_offsets": np.array([0, 2, 5, 10])}, "give one more than the 4 requests"),
        ({"hash_offsets": np.array([0, 2, 5, 9, 11])}, "must ascend from 0 to 10"),
        ({"hash_offsets": np.array([0, 5, 2, 9, 10])}, "must ascend from 0 to 10"),
        (
            {"hash_offsets": np.array([0, 3, 5, 9, 10])},
            "row 0 has 3 content ids of 32 tokens for a prompt of 64",
        ),
        ({"hash_block_tokens": 0}, "say how many tokens one id stands for"),
        ({"hash_ids": np.array([0, 1, 0, 1, 2, 0, -1, 3, 4, 5])}, "hash_ids holds -1"),
    ],
)
def test_impossible_columns_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hand_made(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.scaled(0.0), "rate_factor is 0.0"),
        (lambda t: t.scaled(float("nan")), "rate_factor is nan"),
        (lambda t: t.window(20.0, 30.0), "holds no request: the trace runs from 0 to 10 s"),
        (lambda t: t.split(1.0), "frac is 1.0"),
        (lambda t: t.repeated(0), "num_times is 0"),
        (lambda t: t.truncated(0, None), "max_prompt_tokens is 0"),
        (lambda t: t.truncated(None, -1), "max_output_tokens is -1"),
        (lambda t: t.dropping_longer_than(10), "every request is longer than max_model_len = 10"),
        (lambda t: t.head(0), "cannot take the first 0 requests of 4"),
        (lambda t: t.head(5), "cannot take the first 5 requests of 4"),
        (lambda t: t.head(1).rate_per_s, "has no rate"),
        (lambda t: t.expanded(24), "block_size 24 does not divide the trace's 32-token"),
        (lambda t: t.expanded(64), "block_size 64 does not divide the trace's 32-token"),
        (lambda t: t.block_hashes(0, 0), "block_size is 0"),
    ],
)
def test_impossible_changes_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        change(hand_made())


def test_window_and_split_begin_a_new_clock():
    window = hand_made().window(1.0, 10.0)
    assert window.arrived_at_s.tolist() == [0.0, 3.0]
    assert [ids_of(window, i) for i in range(2)] == [[0, 1, 2], [0, 1, 3, 4]]
    train, test = hand_made().split(0.4)
    assert (train.arrived_at_s.tolist(), test.arrived_at_s.tolist()) == ([0.0, 1.0], [0.0, 6.0])
    assert ids_of(test, 0) == [0, 1, 3, 4]
    assert train.notes == ("train: first 0.4 of the time",)


def test_every_change_keeps_the_source_row():
    trace = hand_made()
    assert trace.source_row.tolist() == [0, 1, 2, 3]
    assert trace.window(1.0, 10.0).repeated(2).scaled(3.0).source_row.tolist() == [1, 2, 1, 2]
    assert trace.split(0.4)[1].truncated(50).source_row.tolist() == [2, 3]
    assert trace.dropping_longer_than(76).head(3).source_row.tolist() == [0, 1, 3]


def test_truncation_drops_the_hash_blocks_beyond_and_counts_what_it_clipped():
    short = hand_made().truncated(60, 6)
    assert short.num_prompt_tokens.tolist() == [60, 60, 60, 20]
    assert short.num_output_tokens.tolist() == [5, 6, 6, 6]
    assert [ids_of(short, i) for i in range(4)] == [[0, 1], [0, 1], [0, 1], [5]]
    assert short.notes == ("3 of 4 prompts clipped to 60 tokens", "2 of 4 outputs clipped to 6 tokens")
    assert np.array_equal(short.block_hashes(2, 16), hand_made().block_hashes(2, 16)[:3])


def test_long_requests_are_dropped_and_counted():
    kept = hand_made().dropping_longer_than(76)
    assert kept.num_prompt_tokens.tolist() == [64, 70, 20]
    assert ids_of(kept, 2) == [5]
    assert kept.notes == ("1 of 4 requests longer than 76 tokens dropped",)


def test_rate_is_from_first_to_last_and_scales():
    assert hand_made().rate_per_s == pytest.approx(0.3)
    assert hand_made().scaled(2.0).rate_per_s == pytest.approx(0.6)
    assert hand_made().scaled(2.0).notes == ("rate x2",)


@given(traces(), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_repeats_share_no_prefix_and_no_session_and_keep_the_rate(trace, num_times):
    repeated = trace.repeated(num_times)
    num = len(trace)
    assert len(repeated) == num * num_times
    parts = [range(r * num, (r + 1) * num) for r in range(num_times)]
    contents = [{c for i in part for c in ids_of(repeated, i)} for part in parts]
    sessions = [{s for s in repeated.session_id[part.start : part.stop].tolist() if s >= 0} for part in parts]
    for kinds in (contents, sessions):
        assert sum(map(len, kinds)) == len(set.union(*kinds))
        assert {len(kind) for kind in kinds} == {len(kinds[0])}
    assert repeated.rate_per_s == pytest.approx(trace.rate_per_s)
    assert np.array_equal(repeated.num_prompt_tokens[-num:], trace.num_prompt_tokens)


@given(traces(), st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_truncating_only_shortens_the_hashes(trace, most):
    short = trace.truncated(most)
    for i in range(len(trace)):
        hashes = short.block_hashes(i, 16)
        assert len(hashes) == min(int(trace.num_prompt_tokens[i]), most) // 16
        assert np.array_equal(hashes, trace.block_hashes(i, 16)[: len(hashes)])


@given(traces(), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_split_loses_nothing(trace, frac):
    train, test = trace.split(frac)
    assert (
        train.num_prompt_tokens.tolist() + test.num_prompt_tokens.tolist() == trace.num_prompt_tokens.tolist()
    )
    assert train.hash_ids.tolist() + test.hash_ids.tolist() == trace.hash_ids.tolist()
    assert np.allclose(np.diff(test.arrived_at_s), np.diff(trace.arrived_at_s[len(train) :]))


@given(traces())
@settings(max_examples=30, deadline=None)
def test_bulk_hashes_equal_single_ones_and_the_reference(trace):
    flat, offsets = trace.expanded(16)
    num_fine = trace.hash_block_tokens // 16
    for i in range(len(trace)):
        hashes = flat[offsets[i] : offsets[i + 1]].tolist()
        assert hashes == trace.block_hashes(i, 16).tolist() == trace.request(i, 16).block_hashes.tolist()
        keys = [c * num_fine + place for c in ids_of(trace, i) for place in range(num_fine)]
        assert hashes == [reference_hash(key) for key in keys[: trace.num_prompt_tokens[i] // 16]]


def test_hashes_are_distinct_positive_and_shared_by_shared_prefixes_only():
    trace = hand_made()
    first, second, third, fourth = (trace.block_hashes(i, 16) for i in range(4))
    assert [len(h) for h in (first, second, third, fourth)] == [4, 4, 6, 1]
    assert np.array_equal(first, second)
    assert np.array_equal(first, third[:4])
    assert len(set(third.tolist()) | set(fourth.tolist())) == 7
    assert min(third.min(), fourth.min()) >= 1


def test_request_carries_its_row():
    request = hand_made().request(2, 16)
    assert (request.request_id, request.arrived_at_s, request.num_prompt_tokens) == (2, 4.0, 100)
    assert (request.num_output_tokens, request.session_id, request.turn, request.tenant) == (7, 3, 2, 0)
