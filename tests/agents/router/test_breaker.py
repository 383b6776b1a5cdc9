"""The breaker: opens where the policy is worse, hardly ever where it is not, and tries again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.router.breaker import Breaker, BreakerSettings, Losses


def run(policy_s, heuristic_s, seed, num_requests=4000, holdout=0.1, **settings):
    """Lognormal losses of these means; returns the request at which it opened, or None."""
    rng, breaker = np.random.default_rng(seed), Breaker(BreakerSettings(**settings))
    for number in range(num_requests):
        arm = "heuristic" if rng.random() < holdout else "policy"
        mean = policy_s if arm == "policy" else heuristic_s
        breaker.observe(arm, float(mean * rng.lognormal(-0.5, 1.0)), float(number))
        if breaker.num_opened:
            return number
    return None


def test_it_opens_where_the_policy_is_much_worse():
    opened = [run(3.0, 1.0, seed) for seed in range(20)]
    assert None not in opened
    assert max(opened) < 2000


def test_it_hardly_opens_where_both_are_alike():
    assert sum(run(1.0, 1.0, seed) is not None for seed in range(50)) <= 1


def test_it_does_not_open_where_the_policy_is_better():
    assert all(run(0.5, 1.0, seed) is None for seed in range(20))


def test_it_waits_for_enough_of_both():
    breaker = Breaker(BreakerSettings(least=30))
    for number in range(29):
        breaker.observe("heuristic", 1.0 + 0.01 * (number % 3), 0.0)
        breaker.observe("policy", 50.0, 0.0)
    assert breaker.state(0.0) == "closed"
    breaker.observe("heuristic", 1.0, 0.0)
    breaker.observe("policy", 50.0, 0.0)
    assert breaker.state(0.0) == "open"


def test_failures_count_as_the_longest():
    breaker = Breaker(BreakerSettings(max_loss_s=10.0))
    for loss_s in (float("nan"), float("inf"), 1e9, 10.0):
        breaker.observe("policy", loss_s, 0.0)
    assert breaker.losses["policy"].mean == 10.0


def test_after_a_while_it_is_on_trial_and_then_trusted_or_out_again():
    def opened():
        breaker = Breaker(BreakerSettings(least=5, open_s=100.0))
        for number in range(10):
            breaker.observe("heuristic", 1.0 + 0.01 * number, 1.0)
            breaker.observe("policy", 5.0 + 0.01 * number, 1.0)
        return breaker

    breaker = opened()
    assert breaker.state(50.0) == "open"
    assert breaker.state(101.5) == "half_open"
    assert [len(losses) for losses in breaker.losses.values()] == [0, 0]  # the past is forgotten
    for number in range(6):
        breaker.observe("policy", 1.0 + 0.01 * number, 102.0)
        breaker.observe("heuristic", 1.0 + 0.01 * number, 102.0)
    assert breaker.state(103.0) == "closed"
    breaker = opened()
    assert breaker.state(150.0) == "half_open"
    for number in range(6):
        breaker.observe("heuristic", 1.0 + 0.01 * number, 151.0)
        breaker.observe("policy", 5.0 + 0.01 * number, 151.0)
    assert breaker.state(152.0) == "open"
    assert breaker.num_opened == 2


@given(losses=st.lists(st.floats(0, 60), min_size=2, max_size=60), window=st.integers(2, 20))
def test_sums_are_those_of_the_window(losses, window):
    held = Losses(window)
    for loss in losses:
        held.add(loss)
    last = np.array(losses[-window:])
    assert len(held) == len(last)
    assert held.mean == pytest.approx(last.mean(), abs=1e-6)
    assert held.squared_error == pytest.approx(last.var(ddof=1) / len(last), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"least": 1}, "breaker.least is 1"),
        ({"least": 600}, "breaker.least is 600"),
        ({"max_loss_s": 0.0}, "breaker.max_loss_s is 0.0"),
        ({"open_s": float("nan")}, "breaker.open_s is nan"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        BreakerSettings(**settings)
