"""The searches find what is known to be there, within what they may spend."""

from __future__ import annotations

import numpy as np
import pytest

from adversary.attackers.found import Found, worst_of
from adversary.attackers.knots import Knots
from adversary.attackers.search import evolve


def test_search_finds_a_corner_and_spends_exactly_what_it_may():
    corner = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 0.3])
    calls = []

    def harm(vector):
        assert np.abs(vector).max() <= 1.0
        calls.append(1)
        return -float(np.abs(vector - corner).sum())

    found = evolve(harm, 6, 203, np.random.default_rng(0))
    assert len(calls) == len(found.curve) == 203
    assert found.harm > -0.5
    assert found.harm == harm(found.best)


def test_the_same_seed_gives_the_same_search_and_leaves_numpy_alone():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002

    def run(seed):
        return evolve(lambda vector: float(vector @ np.arange(4)), 4, 50, np.random.default_rng(seed))

    assert np.array_equal(run(1).best, run(1).best)
    assert run(1).curve == run(1).curve
    assert run(1).curve != run(2).curve
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("num_evaluations", [1, 7])
def test_search_in_one_dimension(num_evaluations):
    found = evolve(lambda vector: float(vector[0]), 1, num_evaluations, np.random.default_rng(0))
    assert found.harm == 1.0
    assert len(found.curve) == num_evaluations


def test_a_harm_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="evaluation 0 of the victim gave a harm of nan"):
        evolve(lambda vector: float("nan"), 2, 5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="num_evaluations is 0"):
        evolve(lambda vector: 0.0, 2, 0, np.random.default_rng(0))


def test_worst_of():
    found = worst_of([3, 1, 5, 2], harm=lambda number: -abs(number - 4.2))
    assert (found.best, found.harm) == (5, pytest.approx(-0.8))
    assert found.curve == pytest.approx([-1.2, -1.2, -0.8, -0.8])
    assert worst_of([], lambda number: 1.0) == Found()


def test_knots_by_hand():
    lines = Knots(num_steps=5, num_knobs=2, num_knots=3).positions(np.array([0.0, 1.0, 1.0, -1.0, 0.5, -1.0]))
    assert lines[:, 0].tolist() == [0.0, 0.5, 1.0, 0.75, 0.5]
    assert lines[:, 1].tolist() == [1.0, 0.0, -1.0, -1.0, -1.0]
    assert Knots(3, 2, 1).positions(np.array([0.2, 0.4])).tolist() == [[0.2, 0.4]] * 3
    assert Knots(1, 2, 1).positions(np.array([0.2, 0.4])).tolist() == [[0.2, 0.4]]
    with pytest.raises(ValueError, match="num_knots is 4"):
        Knots(3, 1, 4)
