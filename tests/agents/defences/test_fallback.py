import numpy as np
import pytest

from agents.bandits.linucb import LinUCB
from agents.defences.clip import Clip
from agents.defences.fallback import Fallback
from agents.defences.trust_counters import TrustCounters
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.round_robin import RoundRobin
from envs.feedback import Feedback

from .look import Witness, begun, look


def feedback(decision_id, instance=0):
    return Feedback(decision_id, 1.0, instance, 1000, 10, 0, 0, 0.0, 0.5, 0.02, 0.7, True, 0, "")


def test_the_policy_decides_while_it_can():
    defence = begun(Fallback(Witness(), LeastInFlight()))
    assert defence.act(look(num_in_flight=[5, 0, 0])).instance == 0
    assert defence.counters() == {"fell_back": 0, "fell_back_on_error": 0, "seen": 1}


@pytest.mark.parametrize(
    "broken",
    [
        {"error": ValueError("no")},
        {"error": ZeroDivisionError("no")},
        {"score": np.nan},
        {"choice": 1},  # which is masked
        {"choice": 7},
    ],
)
def test_a_policy_that_cannot_decide_is_replaced(broken):
    defence = begun(Fallback(Witness(), LeastInFlight()))
    for name, value in broken.items():
        setattr(defence.policy, name, value)
    if broken.get("choice") == 7:
        defence.policy.act = lambda observation: Witness.act(defence.policy, look(8))
    decision = defence.act(look(num_in_flight=[5, 0, 3], mask=[1, 0, 1]))
    assert decision.instance == 2
    assert defence.counters()["fell_back_on_error"] == defence.counters()["fell_back"] == 1
    assert defence.last_error is broken.get("error")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_stops_nobody(value):
    defence = begun(Fallback(LinUCB(), LeastInFlight()))
    decision = defence.act(look(num_waiting=[value, 0, 0], num_in_flight=[4, 2, 0]))
    assert decision.instance == 2
    assert "num_waiting of instance 0" in str(defence.last_error)


def test_nowhere_to_go_is_an_error_still():
    with pytest.raises(ValueError, match="every instance is masked"):
        begun(Fallback(Witness(), RoundRobin())).act(look(mask=[0, 0, 0]))


def test_a_reset_that_was_forgotten_is_an_error_still():
    with pytest.raises(RuntimeError, match="reset"):
        Fallback(Witness(), RoundRobin()).act(look())


def test_too_many_liars_are_left_to_the_fallback():
    inside = TrustCounters(Clip(Witness(), {"num_waiting": [0, 9]}))
    defence = begun(Fallback(inside, LeastInFlight(), max_distrusted=1))
    one, two = [0, 9, 0], [8, 9, 0]  # all of whom say that they have nothing
    assert defence.act(look(num_in_flight=one)).instance == 0
    assert defence.act(look(num_in_flight=two)).instance == 2
    assert defence.distrusted.tolist() == [True, True, False]
    assert defence.counters() == {
        "fell_back": 1,
        "fell_back_on_error": 0,
        "distrusted": 2,
        "clipped": 0,
        "seen": 1,
    }


def test_outcomes_reach_the_policy_by_its_own_numbers():
    defence = begun(Fallback(Witness(), LeastInFlight()))
    for fails in (False, True, False, True, False):
        defence.policy.error = ValueError("no") if fails else None
        defence.act(look())
    defence.observe([feedback(4), feedback(1), feedback(0), feedback(2, instance=2)])
    assert defence.policy.told == [(2, 0), (0, 0), (1, 2)]


def test_a_learner_learns_through_it_as_without():
    alone, inside = LinUCB(), LinUCB()
    defence = begun(Fallback(inside, RoundRobin()))
    begun(alone)
    rng = np.random.default_rng(1)
    skipped = 0
    for number in range(20):
        observation = look(num_waiting=rng.integers(0, 9, 3))
        if number % 4 == 3:
            broken = look(num_waiting=[np.nan, 0, 0])
            defence.act(broken)
            defence.observe([feedback(number)])
            skipped += 1
            continue
        chosen = defence.act(observation).instance
        assert chosen == alone.act(observation).instance
        defence.observe([feedback(number, chosen)])
        alone.observe([feedback(number - skipped, chosen)])
    assert defence.counters() == {**alone.counters(), "fell_back": 5, "fell_back_on_error": 5}
    np.testing.assert_array_equal(inside.state()["model"]["moment"], alone.state()["model"]["moment"])


def test_the_fallback_is_no_learner():
    with pytest.raises(ValueError, match="fallback is a learner"):
        Fallback(Witness(), LinUCB())


@pytest.mark.parametrize("bad", [-1, True])
def test_bad_numbers_are_named(bad):
    with pytest.raises(ValueError, match=f"max_distrusted is {bad}"):
        Fallback(Witness(), RoundRobin(), bad)
