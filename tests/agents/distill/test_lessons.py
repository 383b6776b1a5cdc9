import numpy as np
import pytest

from agents.distill.lessons import Lessons, concatenate
from envs.observation import INSTANCE_FEATURES, NUM_WAITING, REQUEST_FEATURES


def lessons():
    """Two decisions: of two instances, then of three."""
    instances = np.zeros((5, len(INSTANCE_FEATURES)))
    instances[:, NUM_WAITING] = [4, 2, 1, 7, 4]
    requests = np.arange(2.0)[:, None] * np.ones(len(REQUEST_FEATURES))
    return Lessons(instances, np.array([-1.0, -3.0, 0.5, 0.5, 0.0]), requests, np.array([2, 3]))


def test_statistics_are_within_decisions():
    taught, waiting = lessons(), lessons().instance(NUM_WAITING)
    assert taught.reduced("least", waiting).tolist() == [2, 1]
    assert taught.reduced("mean", waiting).tolist() == [3, 4]
    assert taught.fleet("most", waiting).tolist() == [4, 4, 7, 7, 7]
    assert taught.request(0).tolist() == [0, 0, 1, 1, 1]


def test_the_best_is_chosen_and_stakes_are_what_the_worst_would_lose():
    assert lessons().choice.tolist() == [1, 0, 0.5, 0.5, 0]
    assert lessons().stakes.tolist() == [2, 0.5]


def test_regret_is_what_a_choice_costs():
    taught = lessons()
    assert taught.regret.tolist() == [0, 2, 0, 0, 0.5]
    assert taught.mean_regret(np.array([1.0, 0.0, 3.0, 2.0, 1.0])) == (2 + 0.5) / 2
    assert taught.mean_regret(np.array([0.0, 0.0, 1.0, 2.0, 1.0])) == (1 + 0.25) / 2  # equals are as likely
    assert taught.mean_regret(np.float64(1.0)) == pytest.approx((1 + 0.5 / 3) / 2)


def test_thinned_decisions_are_evenly_spread():
    many = concatenate([lessons()] * 5)
    assert many.thinned(10).num_instances.tolist() == many.num_instances.tolist()
    assert len(many.thinned(4)) == 4  # each third
    assert many.thinned(4).num_instances.tolist() == [2, 3, 2, 3]


def test_levelled_choices_are_the_same_and_matter_alike():
    levelled = lessons().levelled()
    assert levelled.choice.tolist() == lessons().choice.tolist()
    assert levelled.stakes.tolist() == [1, 1]


def test_parts_and_sums():
    twice = concatenate([lessons(), lessons()])
    assert twice.starts.tolist() == [0, 2, 5, 7]
    second = twice.take(np.array([False, True, False, True]))
    assert second.instance(NUM_WAITING).tolist() == [1, 7, 4, 1, 7, 4]
    assert second.stakes.tolist() == [0.5, 0.5]
    assert len(second) == 2
