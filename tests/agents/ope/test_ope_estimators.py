"""The estimators against hand-computed numbers, their exact expectations, and worlds whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.ope import estimators as ope
from agents.ope.direct_model import Linear, cross_fitted, folds
from agents.ope.intervals import blocks, interval

from .bandit_world import world

COSTS = st.floats(0.0, 100.0)


@st.composite
def chances(draw, num=3, least=0.05):
    raw = draw(arrays(np.float64, num, elements=st.floats(least, 1.0)))
    return raw / raw.sum()


def expected(propensities, estimate):
    """The mean of an estimate from one decision, over what may be chosen."""
    return sum(
        chance * estimate(np.array([instance])).numerator[0] for instance, chance in enumerate(propensities)
    )


def test_by_hand():
    target = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    propensities = np.array([[0.5, 0.5], [0.25, 0.75], [0.2, 0.8]])
    instance, cost = np.array([0, 0, 0]), np.array([3.0, 5.0, 7.0])
    predicted = np.array([[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]])
    weight = ope.weights(target, propensities, instance)
    assert weight.tolist() == [2.0, 2.0, 0.0]
    assert ope.ips(weight, cost).value == pytest.approx((6 + 10 + 0) / 3)
    assert ope.snips(weight, cost).value == pytest.approx(16 / 4)
    assert ope.direct(target, predicted).value == pytest.approx((2 + 3 + 3) / 3)
    assert ope.doubly_robust(weight, cost, target, predicted, instance).value == pytest.approx(
        (2 + 3 + 3 + 2 * 1 + 2 * 1) / 3
    )
    assert ope.effective_sample_size(weight) == pytest.approx(2.0)
    assert ope.weights(target, propensities, instance, max_weight=1.5).tolist() == [1.5, 1.5, 0.0]


@given(st.data(), st.integers(1, 30))
def test_the_recorded_policy_costs_what_was_recorded(data, num):
    propensities = np.array([data.draw(chances()) for _ in range(num)])
    cost = data.draw(arrays(np.float64, num, elements=COSTS))
    instance = data.draw(arrays(np.int64, num, elements=st.integers(0, 2)))
    weight = ope.weights(propensities, propensities, instance)
    assert (weight == 1).all()
    assert ope.ips(weight, cost).value == ope.snips(weight, cost).value == cost.sum() / num
    assert ope.effective_sample_size(weight) == pytest.approx(num)


@given(st.data(), chances(), chances(least=0.0001))
def test_ips_and_dr_are_unbiased_where_propensities_are_right(data, propensities, target):
    cost, wrong = (data.draw(arrays(np.float64, 3, elements=COSTS)) for _ in range(2))
    truth = float(target @ cost)

    def weighted(instance):
        return ope.weights(target[None], propensities[None], instance)

    assert expected(propensities, lambda at: ope.ips(weighted(at), cost[at])) == pytest.approx(truth)
    found = expected(
        propensities, lambda at: ope.doubly_robust(weighted(at), cost[at], target[None], wrong[None], at)
    )
    assert found == pytest.approx(truth)


@given(st.data(), chances(), chances(), chances(least=0.0001))
def test_dr_is_unbiased_where_the_model_is_right_and_propensities_are_not(data, true, declared, target):
    cost = data.draw(arrays(np.float64, 3, elements=COSTS))
    found = expected(
        true,
        lambda at: ope.doubly_robust(
            ope.weights(target[None], declared[None], at), cost[at], target[None], cost[None], at
        ),
    )
    assert found == pytest.approx(float(target @ cost))


@given(st.data(), chances(), chances(), st.floats(0.1, 3.0))
def test_cut_weights_make_ips_too_low_by_what_is_cut(data, propensities, target, max_weight):
    cost = data.draw(arrays(np.float64, 3, elements=COSTS))
    found = expected(
        propensities,
        lambda at: ope.ips(ope.weights(target[None], propensities[None], at, max_weight), cost[at]),
    )
    cut = np.maximum(target / propensities - max_weight, 0)
    assert found == pytest.approx(float(target @ cost - (propensities * cut) @ cost), abs=1e-9)


@given(arrays(np.float64, 20, elements=st.floats(0.01, 10.0)), st.floats(-50, 50))
def test_snips_shifts_with_the_cost_and_ips_does_not(weight, shift):
    cost = np.linspace(1, 2, 20)
    assert ope.snips(weight, cost + shift).value == pytest.approx(ope.snips(weight, cost).value + shift)
    assert ope.ips(weight, cost + shift).value == pytest.approx(
        ope.ips(weight, cost).value + shift * weight.mean()
    )


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0.01, 1e3)), st.floats(0.1, 10))
def test_effective_sample_size_is_between_one_and_all(weight, scale):
    size = ope.effective_sample_size(weight)
    assert 1 - 1e-9 <= size <= len(weight) + 1e-9
    assert ope.effective_sample_size(scale * weight) == pytest.approx(size)


def test_a_policy_that_never_does_what_was_done_has_no_estimate():
    nothing = np.zeros(3)
    assert ope.effective_sample_size(nothing) == 0
    assert np.isnan(ope.snips(nothing, np.ones(3)).value)


def test_unsupported_is_the_share_that_could_not_have_been_chosen():
    target = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    propensities = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert ope.unsupported(target, propensities) == pytest.approx([0.5, 0.0])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        ope.weights(np.ones((2, 3)), np.ones((2, 2)), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="not above 0"):
        ope.weights(np.eye(2), np.eye(2), np.array([1, 0]))


def test_in_a_linear_world_the_direct_model_is_right():
    it = world(0, noise=0.0)
    fold = folds(it.logged.episode, blocks(it.logged.episode, 100), 5)
    predicted = cross_fitted(Linear(ridge=1e-6), it.logged, fold, 0)
    np.testing.assert_allclose(predicted, it.mean_cost, atol=1e-4)
    assert ope.direct(it.target, predicted).value == pytest.approx(it.truth, abs=1e-5)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Over 60 recordings: of a nominal 57, fewer than 51 would come by chance in 1 of 1000 cases."""
    seeds = range(60)
    population = np.mean([world(seed).truth for seed in range(1000, 1200)])
    held = dict.fromkeys(("ips", "snips", "dr", "wrong propensities", "dm of a wrong model"), 0)
    widths = dict.fromkeys(held, 0.0)
    for seed in seeds:
        it = world(seed)
        logged, block = it.logged, blocks(it.logged.episode, 25)
        weight = ope.weights(it.target, logged.propensities, logged.instance)
        even = ope.weights(it.target, np.full_like(it.target, 1 / 3), logged.instance)
        right = cross_fitted(Linear(), logged, folds(logged.episode, block, 5), 0)
        wrong = np.full_like(it.target, logged.cost.mean())
        ratios = {
            "ips": ope.ips(weight, logged.cost),
            "snips": ope.snips(weight, logged.cost),
            "dr": ope.doubly_robust(weight, logged.cost, it.target, wrong, logged.instance),
            "wrong propensities": ope.doubly_robust(even, logged.cost, it.target, right, logged.instance),
            "dm of a wrong model": ope.direct(it.target, wrong),
        }
        for name, ratio in ratios.items():
            found = interval(ratio, block, seed)
            held[name] += found.low <= population <= found.high
            widths[name] += (found.high - found.low) / len(seeds)
    assert min(held[name] for name in ("ips", "snips", "dr", "wrong propensities")) >= 51, held
    assert held["dm of a wrong model"] < 30, held
    assert widths["snips"] < widths["ips"]
