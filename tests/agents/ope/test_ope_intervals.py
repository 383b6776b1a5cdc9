"""Stretches hold together what belongs together; their intervals agree with those known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ope.estimators import Ratio
from agents.ope.intervals import blocks, interval


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 60))
def test_stretches_are_equal_runs_within_episodes(sizes, num_blocks):
    episode = np.repeat(np.arange(len(sizes)), sizes)
    block = blocks(episode, num_blocks)
    assert block[0] == 0
    assert set(np.diff(block)) <= {0, 1}
    for number in range(len(sizes)):
        own = block[episode == number]
        assert not set(own) & set(block[episode != number])
        counts = np.unique(own, return_counts=True)[1]
        assert counts.max() - counts.min() <= 1
    if len(sizes) == 1:
        assert block[-1] + 1 == min(num_blocks, sizes[0])


def mean(values):
    return Ratio(values, np.ones(len(values)))


def test_of_independent_samples_it_is_the_one_of_the_textbook():
    values = np.random.default_rng(0).exponential(size=4000)
    found = interval(mean(values), blocks(np.zeros(4000, np.int64), 200), 0)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


def test_waves_widen_it_as_their_spectrum_says():
    """The variance of an AR(1)'s mean is (1 + r) / (1 - r) times that of independent samples."""
    rng, r, num = np.random.default_rng(0), 0.8, 40_000
    values = np.zeros(num)
    for row in range(1, num):
        values[row] = r * values[row - 1] + np.sqrt(1 - r**2) * rng.standard_normal()
    one_episode = np.zeros(num, np.int64)
    in_waves = interval(mean(values), blocks(one_episode, 400), 0)
    expected = 2 * 1.96 * np.sqrt((1 + r) / (1 - r) / num)
    assert in_waves.high - in_waves.low == pytest.approx(expected, rel=0.15)


def test_one_stretch_has_no_interval():
    found = interval(mean(np.arange(5.0)), np.zeros(5, np.int64), 0)
    assert found.value == 2
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_weights_on_one_stretch_have_no_interval():
    """Of resamples of 10 stretches, a third lack the only one that has weight."""
    weight = np.repeat([1.0, 0.0], [3, 27])
    found = interval(Ratio(2 * weight, weight), blocks(np.zeros(30, np.int64), 10), 0)
    assert found.value == 2
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).exponential(size=300)
    block = blocks(np.zeros(300, np.int64), 30)
    assert interval(mean(values), block, 1) == interval(mean(values), block, 1)
    assert interval(mean(values), block, 1) != interval(mean(values), block, 2)
