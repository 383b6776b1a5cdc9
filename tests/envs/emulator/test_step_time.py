import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.emulator.step_time import (
    STEP_TIME_DTYPE,
    StepTimeLaw,
    as_record,
    attended_pairs,
    decode_step_s,
    prefill_s,
    prefill_tokens_per_s,
    step_time_s,
)

LAW = StepTimeLaw(
    floor_s=5.0,
    overhead_s=1.0,
    token_s=0.5,
    prefill_attention_s=0.25,
    decode_sequence_s=0.125,
    decode_context_s=0.0625,
)
"""Coefficients that are exact in binary, so that hand-computed sums are too."""

TABLE = StepTimeLaw(
    0.0,
    1.0,
    0.0,
    0.0,
    0.0,
    0.0,
    prefill_step_s=2.0,
    prefill_token_s=0.5,
    prefill_far_s=0.25,
    prefill_far_pairs=8.0,
    decode_step_s=4.0,
    decode_least_s=0.125,
    decode_least_tokens=16.0,
    decode_first_s=0.5,
    decode_first_tokens=10.0,
    decode_first_after=2.0,
    decode_near_s=0.25,
    decode_near_tokens=8.0,
    decode_near_after=2.0,
    decode_more_s=1.0,
    decode_more_tokens=1.0,
    decode_more_after=3.0,
    **{f"knot_{number}_tokens": float(number) for number in range(1, 17)},
    **{f"slope_{number}_s": 0.25 * number for number in range(1, 17)},
)
"""A law in which every coefficient of the table form counts."""


@st.composite
def tables(draw):
    """Any law that a profile may hold."""
    values = draw(st.lists(st.floats(0, 1e3), min_size=len(TABLE), max_size=len(TABLE)))
    law = StepTimeLaw(*values)
    knots = [name for name in law._fields if name.startswith("knot_")]
    return law._replace(**dict(zip(knots, sorted(getattr(law, name) for name in knots), strict=True)))


LAWS = st.tuples(*[st.floats(0, 1)] * 6).map(lambda values: StepTimeLaw(*values))
COUNTS = st.tuples(*[st.floats(0, 1e6)] * 4)


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        ((0, 0, 0, 0), 5.0),  # the floor
        ((8, 0, 0, 0), 5.0),  # 1 + 8/2, the knee
        ((9, 0, 0, 0), 5.5),
        ((6, 0, 4, 0), 6.5),  # 1 + 10/2 + 4/8: prefill and decode tokens share the linear layers
        ((0, 0, 2, 32), 7.25),  # 5 + 2/8 + 32/16
        ((10, 55, 2, 32), 7 + 13.75 + 0.25 + 2),
    ],
)
@pytest.mark.parametrize("law", [LAW, as_record(LAW)], ids=["tuple", "record"])
def test_hand_computed_steps(law, counts, seconds):
    assert step_time_s(law, *counts) == seconds


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        ((0, 0, 0, 0), 1.0),  # no work still reads the weights
        ((1, 1, 0, 0), 1 + 2 + 0.5 + 0.25 * 8),  # one pair counts as eight; the stairs begin at one token
        ((3, 40, 0, 0), 1 + (0.25 + 0.5) + 2 + 1.5 + 0.25 * 40),
        ((20, 0, 0, 0), 1 + 0.25 * (1 + 15) * 15 / 2 + 4 * 4 + 2 + 10 + 0.25 * 160),  # past the last knot
        ((0, 0, 1, 4), 1 + 4 + 0.125 * 16 + 0.5 * 2),  # four tokens of context count as sixteen
        ((0, 0, 4, 100), 1 + 0.25 * (1 + 2 + 3) + 4 + 0.125 * 100 + 0.5 * 10 + 0.25 * 16 + 1.0 * 1),
    ],
)
@pytest.mark.parametrize("law", [TABLE, as_record(TABLE)], ids=["tuple", "record"])
def test_hand_computed_steps_of_the_table(law, counts, seconds):
    assert step_time_s(law, *counts) == seconds


def test_every_coefficient_of_a_table_is_used():
    for name, value in TABLE._asdict().items():
        changed = TABLE._replace(**{name: value + 1.5})
        work = [(p, 3 * p, d, 5 * d) for p in range(0, 25, 3) for d in range(8)]
        assert any(step_time_s(changed, *counts) != step_time_s(TABLE, *counts) for counts in work), name


@pytest.mark.parametrize("law", [LAW, TABLE])
def test_record_keeps_every_coefficient(law):
    record = as_record(law)
    assert record.dtype == STEP_TIME_DTYPE
    assert record.tolist() == law


def test_pairs_of_a_chunk_are_counted_one_by_one():
    assert attended_pairs(4, 0) == 1 + 2 + 3 + 4
    assert attended_pairs(3, 10) == 11 + 12 + 13


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 5000))
def test_cutting_a_chunk_does_not_change_its_pairs(first, second, computed):
    cut = attended_pairs(first, computed) + attended_pairs(second, computed + first)
    assert cut == attended_pairs(first + second, computed)


@settings(deadline=None)  # the first call may compile
@given(LAWS | tables(), COUNTS, COUNTS)
def test_more_work_never_takes_less_time(law, counts, added):
    assert step_time_s(law, *np.add(counts, added)) >= step_time_s(law, *counts)


@settings(deadline=None)
@given(LAWS, COUNTS, COUNTS, st.floats(0, 1))
def test_law_is_convex(law, one, other, weight):
    between = weight * np.array(one) + (1 - weight) * np.array(other)
    chord_s = weight * step_time_s(law, *one) + (1 - weight) * step_time_s(law, *other)
    assert step_time_s(law, *between) <= chord_s + 1e-9 * (1 + chord_s)


def test_prompt_alone_is_prefilled_in_chunks():
    # Chunks of 12, 12 and 4 tokens, which attend to 78, 222 and 106 pairs; the last waits for the weights.
    assert prefill_s(LAW, 28, 12) == (7 + 78 / 4) + (7 + 222 / 4) + (5 + 106 / 4)
    assert prefill_tokens_per_s(LAW, 12, 28) == 28 / 120.5
    assert prefill_tokens_per_s(LAW, 8192) == 2048 / (1 + 1024 + 2048 * 2049 / 2 / 4)


def test_decode_step_reads_every_context():
    assert decode_step_s(LAW) == 9 + 16 / 8 + 16 * 2048 / 16
    assert decode_step_s(LAW, 1, 0) == 5.125
