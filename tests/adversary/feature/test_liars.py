"""Liars that follow no gradient."""

from __future__ import annotations

import numpy as np
import pytest

from adversary.feature.linear import LOOKED_AT, LinearLiar, standardised
from adversary.feature.quantise import Quantise
from adversary.feature.random_liar import RandomLiar
from adversary.feature.replayed import Replayed
from adversary.feature.scale import Scale
from adversary.feature.spoof import Spoof
from adversary.feature.threat import FeatureThreat
from adversary.threat import Budget, neutral
from adversary.trace import AttackTrace
from envs.observation import INSTANCE_FEATURES, NUM_WAITING

THREAT = FeatureThreat(
    [Spoof({"num_waiting": 64, "num_running": 256}), Quantise({"num_running": 9})], Budget()
)
KNOBS = THREAT.knobs(4)


def look(seed=0, mask=(1, 1, 1, 1)):
    rng = np.random.default_rng(seed)
    instances = np.zeros((len(mask), len(INSTANCE_FEATURES)), np.float32)
    instances[:, LOOKED_AT] = rng.random((len(mask), len(LOOKED_AT)))
    return {"instances": instances, "request": np.zeros(5, np.float32), "mask": np.array(mask, np.int8)}


def drawn(liar, seed, num_steps=200):
    liar.reset(np.random.default_rng(seed))
    return np.array([liar.choose(look(), 0.0) for _ in range(num_steps)])


def test_random_is_uniform_within_bounds_and_reproducible():
    values = drawn(RandomLiar(KNOBS), 1, 2000)
    low, high = (np.array([getattr(knob, bound) for knob in KNOBS]) for bound in ("low", "high"))
    shares = (values - low) / (high - low)
    assert (shares >= 0).all()
    assert (shares <= 1).all()
    assert np.abs(shares.mean(0) - 0.5).max() < 0.03
    assert np.abs(shares.var(0) - 1 / 12).max() < 0.01
    assert np.array_equal(values[:200], drawn(RandomLiar(KNOBS), 1))
    others = [drawn(RandomLiar(KNOBS, 1), 1), drawn(RandomLiar(KNOBS), 2)]
    assert not any(np.array_equal(values[:200], other) for other in others)


def test_replayed_tells_what_was_recorded_and_then_nothing():
    values = RandomLiar(KNOBS)
    values = drawn(values, 0, 3)
    liar = Replayed(AttackTrace("feature", KNOBS, Budget(), values), KNOBS)
    for _ in range(2):
        told = drawn(liar, 9, 5)
        assert np.array_equal(told[:3], values)
        assert np.array_equal(told[3:], np.tile(neutral(KNOBS), (2, 1)))


def test_replayed_refuses_other_threats():
    values = np.tile(neutral(KNOBS), (2, 1))
    with pytest.raises(ValueError, match="level of world"):
        Replayed(AttackTrace("world", KNOBS, Budget(), values, 5.0), KNOBS)
    with pytest.raises(ValueError, match="replay it with the threat model and the number of instances"):
        Replayed(AttackTrace("feature", KNOBS, Budget(), values), THREAT.knobs(3))


def test_linear_without_parameters_is_neutral_where_it_can_be():
    knobs = FeatureThreat([Scale(0.5)], Budget()).knobs(3)
    assert np.array_equal(LinearLiar(knobs).choose(look(), 0.0), neutral(knobs))


def test_linear_by_hand():
    [knob, *_] = knobs = FeatureThreat([Spoof({"num_waiting": 64})], Budget()).knobs(4)
    assert knob.name == "spoof.num_waiting[0]"
    parameters = np.zeros(len(LOOKED_AT) + 1)
    parameters[LOOKED_AT.index(NUM_WAITING)], parameters[-1] = 2.0, 0.5
    liar = LinearLiar(knobs).with_parameters(parameters)
    assert liar.kinds == ("spoof.num_waiting",)
    seen = look(mask=(1, 1, 1, 0))
    seen["instances"][:, NUM_WAITING] = [1, 3, 5, 99]
    spread = (8 / 3) ** 0.5
    expected = np.tanh([2 * -2 / spread + 0.5, 0.5, 2 * 2 / spread + 0.5, 0.5])
    assert liar.choose(seen, 0.0) == pytest.approx(expected)


def test_linear_lies_move_along_when_instances_are_permuted():
    rng = np.random.default_rng(4)
    liar = LinearLiar(KNOBS, rng.normal(size=LinearLiar(KNOBS).num_parameters))
    order = rng.permutation(4)
    seen = look(5)
    moved = {**seen, "instances": seen["instances"][order]}
    per_instance = liar.choose(seen, 0.0)[:8].reshape(4, 2)
    assert liar.choose(moved, 0.0)[:8].reshape(4, 2) == pytest.approx(per_instance[order])
    assert liar.choose(moved, 0.0)[8] == liar.choose(seen, 0.0)[8]


def test_instances_that_are_alike_differ_in_nothing():
    seen = look()
    seen["instances"][:] = 0.1  # whose mean over three is not 0.1 in floating point
    assert not standardised({**seen, "mask": np.array([1, 1, 1, 0], np.int8)}).any()


@pytest.mark.parametrize("parameters", [np.zeros(3), np.full(3 * 7, np.nan)])
def test_parameters_that_do_not_fit_are_refused(parameters):
    with pytest.raises(ValueError, match="they must be 21 finite numbers: 6 weights and a bias for each of"):
        LinearLiar(KNOBS, parameters)


def test_random_needs_a_chance():
    with pytest.raises(RuntimeError, match="reset"):
        RandomLiar(KNOBS).choose(look(), 0.0)
    with pytest.raises(ValueError, match="seed is -1"):
        RandomLiar(KNOBS, -1)
