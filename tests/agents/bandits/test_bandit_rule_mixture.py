import math

import numpy as np
import pytest

from agents.bandits.linucb import LinUCB
from agents.bandits.rule_mixture import RuleMixture
from agents.policy import Decision

from .two_speed_fleet import look, outcome


class Always:
    """Sends everything to one instance."""

    def __init__(self, instance):
        self.instance = instance

    def reset(self, rng):
        pass

    def act(self, observation):
        chosen = np.arange(len(observation["mask"])) == self.instance
        return Decision(self.instance, chosen.astype(float), chosen.astype(float))


def make(**settings):
    policy = RuleMixture({"first": Always(0), "second": Always(1)}, **settings)
    policy.reset(np.random.default_rng(0))
    return policy


def test_propensities_and_losses_computed_by_hand():
    policy = make(learning_rate=1.0, exploration=0.2, max_ttft_s=10.0)
    seen = look(np.random.default_rng(0), num_instances=4)
    decision = policy.act(seen)
    np.testing.assert_allclose(decision.propensities, [0.45, 0.45, 0.05, 0.05])
    policy.observe([outcome(0, decision._replace(instance=decision.instance), 2.0)])
    losses = np.zeros(2)
    if decision.instance < 2:
        losses[decision.instance] = 0.2 / 0.45  # the chosen rule's 1 / p times the loss
    weights = np.exp(-losses) / np.exp(-losses).sum()
    np.testing.assert_allclose(policy.weights, weights)
    np.testing.assert_allclose(policy.act(seen).propensities[:2], 0.8 * weights + 0.05)


def test_the_better_rule_takes_over_and_back():
    policy = make(learning_rate=0.2)
    seen = look(np.random.default_rng(0), num_instances=4)
    number = 0
    for better in (0, 1):
        for _ in range(600 * (1 + 2 * better)):
            decision = policy.act(seen)
            ttft_s = 1.0 if decision.instance == better else 10.0
            policy.observe([outcome(number, decision, ttft_s)])
            number += 1
        assert policy.weights[better] > 0.9


@pytest.mark.parametrize(
    ("ttft_s", "failure"),
    [(math.nan, "connection refused"), (2.0, "instance failed"), (math.nan, "")],
    ids=["never begun", "broken off", "no first token"],
)
def test_a_failed_request_costs_the_greatest_loss(ttft_s, failure):
    policy = make(learning_rate=1.0, exploration=0.0, max_ttft_s=10.0)
    decision = policy.act(look(np.random.default_rng(0), num_instances=4))
    policy.observe([outcome(0, decision, ttft_s, failure)])
    losses = np.zeros(2)
    losses[decision.instance] = 1.0 / 0.5  # either rule was as likely
    np.testing.assert_allclose(policy.weights, np.exp(-losses) / np.exp(-losses).sum())
    assert policy.counters()["failed_feedback"] == 1


def test_a_rule_that_sends_where_requests_fail_is_left():
    policy = make(learning_rate=0.2)
    seen = look(np.random.default_rng(0), num_instances=4)
    for number in range(200):
        decision = policy.act(seen)
        is_down = decision.instance == 0
        policy.observe([outcome(number, decision, math.nan if is_down else 1.0, "instance failed" * is_down)])
    assert policy.weights[0] < 0.01


def test_what_another_instance_failed_at_is_charged_to_nobody():
    policy = make()
    decision = policy.act(look(np.random.default_rng(0), num_instances=4))
    elsewhere = decision._replace(instance=(decision.instance + 1) % 4)
    policy.observe([outcome(0, elsewhere, math.nan, "instance failed")])
    np.testing.assert_array_equal(policy.weights, 0.5)
    assert policy.counters()["redirected_feedback"] == 1


def test_optimism_expects_the_last_loss_again():
    plain, optimistic = make(learning_rate=1.0), make(learning_rate=1.0, optimism=1.0)
    seen = look(np.random.default_rng(0), num_instances=4)
    for policy in (plain, optimistic):
        policy.observe([outcome(0, policy.act(seen), 3.0)])
    np.testing.assert_allclose(
        optimistic.weights[0] / optimistic.weights[1], (plain.weights[0] / plain.weights[1]) ** 2
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rules", {}),
        ("rules", {"one": LinUCB()}),
        ("learning_rate", 0.0),
        ("exploration", 1.5),
        ("optimism", -1.0),
    ],
)
def test_refuses_bad_settings_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        RuleMixture(**{"rules": {"first": Always(0)}, name: value})
