"""The projection keeps bounds and budget, as an independent validator finds, and goes as far as it may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adversary.threat import Budget, Knob, Projector, UnitPositions, neutral
from adversary.validate import require_valid, violations

RATE = Knob("rate_factor", "1", 0.5, 2.0, 1.0)
SLOW = [Knob(f"slowdown[{index}]", "1", 1.0, 4.0, 1.0, index) for index in range(4)]
FAIL = [Knob(f"failed[{index}]", "on", 0.0, 1.0, 0.0, index, True) for index in range(4)]

budgets = st.builds(
    Budget,
    max_slope=st.none() | st.floats(1e-3, 2.0),
    window=st.integers(1, 6),
    max_instances=st.none() | st.integers(1, 4),
)


@given(budgets, st.integers(0, 2**32 - 1), st.sampled_from(["noise", "extremes", "walk"]))
@settings(max_examples=200, deadline=None)
def test_whatever_is_wanted_keeps_to_bounds_and_budget(budget, seed, style):
    rng = np.random.default_rng(seed)
    knobs = [RATE, *SLOW, *FAIL]
    shape = (60, len(knobs))
    wanted = {
        "noise": lambda: rng.uniform(-10, 10, shape),
        "extremes": lambda: rng.choice([-1e9, 0.0, 0.5, 1.0, 1e9], shape),
        "walk": lambda: np.cumsum(rng.normal(0, 0.3, shape), axis=0),
    }[style]()
    values = Projector(knobs, budget).project(wanted)
    assert violations(knobs, budget, values) == []


def test_a_million_perturbed_steps_have_no_violation():
    """The issue's bar, over budgets of every kind: 250 attacks of 4,000 steps."""
    rng = np.random.default_rng(0)
    knobs = [RATE, *SLOW[:2], *FAIL[:2]]
    num_steps = 0
    for _ in range(250):
        budget = Budget(
            max_slope=rng.choice([None, 0.01, 0.1, 0.5]),
            window=int(rng.integers(1, 6)),
            max_instances=rng.choice([None, 1, 2]),
        )
        wanted = rng.choice([rng.normal(1, 2, (4000, 5)), rng.choice([-5.0, 0.0, 1.0, 9.0], (4000, 5))])
        values = Projector(knobs, budget).project(wanted)
        assert violations(knobs, budget, values) == []
        num_steps += len(values)
    assert num_steps >= 1_000_000


def test_slope_by_hand():
    """Range 4, half of it per step over two steps: at most 4 in any two steps."""
    knob = Knob("x", "1", 0.0, 4.0, 0.0)
    values = Projector([knob], Budget(max_slope=0.5, window=2)).project(
        np.array([[4.0], [0.0], [0.0], [2.0]])
    )
    assert values[:, 0].tolist() == [4.0, 4.0, 0.0, 0.0]


def test_without_limits_what_is_wanted_within_bounds_is_done():
    rng = np.random.default_rng(1)
    wanted = rng.uniform(0.5, 2.0, (50, 1))
    assert np.array_equal(Projector([RATE], Budget()).project(wanted), wanted)


def test_the_strongest_instances_win_and_a_stuck_one_keeps_its_place():
    budget = Budget(max_slope=0.25, window=1, max_instances=1)
    projector = Projector(SLOW, budget)
    assert projector.step(np.array([2.0, 4.0, 1.0, 1.0])).tolist() == [1.0, 1.75, 1.0, 1.0]
    assert projector.step(np.array([1.0, 4.0, 1.0, 1.0])).tolist() == [1.0, 2.5, 1.0, 1.0]
    # instance 0 is wanted now, but 1 needs two steps back to neutral
    assert projector.step(np.array([4.0, 1.0, 1.0, 1.0])).tolist() == [1.0, 1.75, 1.0, 1.0]
    assert projector.step(np.array([4.0, 1.0, 1.0, 1.0])).tolist() == [1.75, 1.0, 1.0, 1.0]


def test_a_switch_waits_until_it_may_be_thrown():
    budget = Budget(max_slope=0.5, window=2)
    values = Projector(FAIL[:1], budget).project(np.array([[1.0], [0.0], [0.0], [1.0]]))
    assert values[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("step", "column", "value", "rule"),
    [(3, 0, 2.5, "bounds"), (3, 0, 0.2, "bounds"), (3, 5, 0.5, "switch"), (3, 0, float("nan"), "finite")],
)
def test_the_validator_finds_what_is_put_in(step, column, value, rule):
    knobs = [RATE, *SLOW, *FAIL]
    values = np.tile(neutral(knobs), (8, 1))
    assert violations(knobs, Budget(), values) == []
    values[step, column] = value
    found = violations(knobs, Budget(), values)
    assert [(violation.step, violation.rule) for violation in found] == [(step, rule)]


def test_the_validator_finds_slopes_and_instances():
    values = np.tile(neutral(SLOW), (8, 1))
    values[4, :2] = 4.0
    found = violations(SLOW, Budget(max_slope=0.5, window=2, max_instances=1), values)
    assert {(violation.step, violation.rule) for violation in found} == {(4, "instances"), (5, "slope")}
    with pytest.raises(ValueError, match=r"3 times; first, step 5: slowdown\[0\] breaks slope: 1"):
        require_valid(SLOW, Budget(max_slope=0.5, window=2, max_instances=1), values)


@given(st.floats(-1, 1))
def test_positions_cover_the_bounds(position):
    [two, one] = UnitPositions([RATE, SLOW[0]]).values(np.array([position, position]))
    assert two == pytest.approx(1.0 + position * (1.0 if position > 0 else 0.5))
    assert one == pytest.approx(2.5 + 1.5 * position)


@pytest.mark.parametrize("position", [-1.0, 1.0])
def test_positions_reach_the_bounds_exactly(position):
    knobs = [Knob("x", "1", 0.1, 0.7, 0.3), Knob("y", "1", 0.1, 0.7, 0.1)]
    assert UnitPositions(knobs).values(np.full(2, position)).tolist() == (
        [0.1] * 2 if position < 0 else [0.7] * 2
    )


def test_epsilon_brings_bounds_towards_neutral():
    assert RATE.within(0.5) == Knob("rate_factor", "1", 0.75, 1.5, 1.0)
    assert FAIL[0].within(0.5) == FAIL[0]
    with pytest.raises(ValueError, match="epsilon is 0"):
        RATE.within(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(max_slope=0.0), "max_slope is 0.0: no knob could be turned"),
        (lambda: Budget(max_instances=0), "max_instances is 0: no instance could be disturbed"),
        (lambda: Budget(window=0), "window is 0"),
        (lambda: Projector([], Budget()), "has no knob"),
        (lambda: Projector([RATE._replace(low=3.0)], Budget()), r"its bounds \[3, 2\] cross"),
        (lambda: Projector([RATE._replace(neutral=5.0)], Budget()), "not within its bounds"),
        (lambda: Projector([RATE._replace(high=float("inf"))], Budget()), "must be finite"),
        (lambda: Projector([RATE, RATE], Budget()), "two knobs are named rate_factor"),
        (lambda: Projector([RATE], Budget()).step(np.array([np.nan])), "set knob rate_factor to nan"),
        (lambda: Projector([RATE], Budget()).step(np.array([1.0, 2.0])), r"shape \(2,\) for 1 knobs"),
        (lambda: violations([RATE], Budget(), np.zeros((3, 2))), r"shape \(3, 2\), its threat model 1 knobs"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
