import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.workload.rate import Burst, Ramp, RateSchedule, Shift, events_of


@st.composite
def schedules(draw):
    shifts, ramps, at = [], [], 0.0
    for _ in range(draw(st.integers(0, 4))):
        at += draw(st.floats(0.0, 50.0))
        factor = draw(st.one_of(st.just(0.0), st.floats(0.1, 5.0)))
        if draw(st.booleans()):
            shifts.append(Shift(at, factor))
        else:
            stop = at + draw(st.floats(0.5, 40.0))
            ramps.append(Ramp(at, stop, factor))
            at = stop
    shifts.append(Shift(at + 1.0, draw(st.floats(0.1, 5.0))))
    bursts = draw(
        st.lists(st.builds(Burst, st.floats(0, 150), st.floats(0, 60), st.floats(0, 8)), max_size=3)
    )
    return RateSchedule(draw(st.floats(0.1, 20.0)), tuple(shifts), tuple(ramps), tuple(bursts))


def test_hand_computed_schedule():
    schedule = RateSchedule(2.0, (Shift(20.0, 3.0),), (Ramp(5.0, 15.0, 2.0),), (Burst(25.0, 5.0, 4.0),))
    assert schedule.rate_per_s([0, 5, 10, 15, 19, 20, 25, 30]).tolist() == [2, 2, 3, 4, 4, 6, 24, 6]
    assert schedule.expected_count([5, 10, 15, 20, 25, 30, 40]).tolist() == [10, 22.5, 40, 60, 90, 210, 270]
    assert schedule.instant_of([10, 22.5, 40, 60, 90, 210, 270]).tolist() == [5, 10, 15, 20, 25, 30, 40]


def test_silence_is_jumped_over():
    schedule = RateSchedule(1.0, (Shift(10.0, 0.0), Shift(20.0, 1.0)))
    assert schedule.instant_of([9.0, 10.0, 11.0]).tolist() == [9.0, 20.0, 21.0]


def test_ramp_from_nothing():
    schedule = RateSchedule(1.0, (Shift(0.0, 0.0),), (Ramp(0.0, 10.0, 1.0),))
    assert schedule.instant_of([0.0, 1.25, 5.0, 6.0]).tolist() == [0.0, 5.0, 10.0, 11.0]


@given(schedules(), st.lists(st.floats(0.0, 400.0), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_inverse_undoes_the_integral(schedule, times):
    counts = schedule.expected_count(np.sort(times))
    assert (np.diff(counts) >= -1e-9).all()
    instants = schedule.instant_of(counts)
    assert np.allclose(schedule.expected_count(instants), counts, rtol=1e-9, atol=1e-7)
    assert (np.diff(schedule.instant_of(np.linspace(0.0, counts[-1] + 10.0, 200))) >= 0.0).all()


@given(schedules())
@settings(max_examples=20, deadline=None)
def test_integral_is_the_sum_of_the_rate(schedule):
    edges = np.linspace(0.0, 300.0, 60_001)
    middles = 0.5 * (edges[1:] + edges[:-1])
    summed = schedule.rate_per_s(middles).sum() * (edges[1] - edges[0])
    jumps = 12 * 0.005 * schedule.base_per_s * 5 * 8**3  # half a cell for each jump, at the highest rate
    assert abs(float(schedule.expected_count(300.0)) - summed) <= jumps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "base_per_s is 0.0"),
        ((1.0, (Shift(-1.0, 2.0),)), "must be numbers from 0"),
        ((1.0, (Shift(1.0, float("nan")),)), "must be numbers from 0"),
        ((1.0, (), (Ramp(5.0, 5.0, 2.0),)), "must stop after it starts"),
        ((1.0, (Shift(7.0, 2.0),), (Ramp(5.0, 9.0, 2.0),)), "begins at 7 s, before the last one ends at 9 s"),
        ((1.0, (Shift(7.0, 0.0),)), "ends at 0"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RateSchedule(*arguments)


def test_events_come_from_rows_of_plain_numbers():
    assert events_of(Shift, "shifts", [[10, 2.0]]) == (Shift(10, 2.0),)
    assert events_of(Burst, "bursts", ()) == ()


@pytest.mark.parametrize("row", [[1], [1, 2, 3, 4], [1, "2", 3], [1, -2, 3], [1, float("nan"), 3], 5, "1,2"])
@pytest.mark.parametrize(
    ("kind", "key", "form"),
    [
        (Shift, "shifts", "[at_s, factor]"),
        (Ramp, "ramps", "[start_s, stop_s, factor]"),
        (Burst, "bursts", "[start_s, duration_s, factor]"),
    ],
)
def test_row_of_another_form_is_named(kind, key, form, row):
    good = [1.0] * len(kind._fields)
    message = f"{key}[1] is {row}: give {form}, numbers from 0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        events_of(kind, key, [good, row])
    with pytest.raises(ValueError, match=re.escape(f"{key} is 5: give a list of {form}")):
        events_of(kind, key, 5)


def test_times_before_the_schedule_are_refused():
    with pytest.raises(ValueError, match=r"an instant is -1\.0 s"):
        RateSchedule(1.0).rate_per_s(-1.0)
    with pytest.raises(ValueError, match="count is nan"):
        RateSchedule(1.0).instant_of([1.0, float("nan")])
