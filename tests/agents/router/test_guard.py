"""Guard rails: the heuristic decides where the policy may not, each time for a reason that is counted."""

import time
from dataclasses import replace

import numpy as np
import pytest

from agents.export import bundle, writing
from agents.export.runtime import Decision, Judged
from agents.router.breaker import BreakerSettings
from agents.router.guard import REASONS, Guard, GuardSettings
from tests.agents.export.exported import export_of, make, seen

ALWAYS = GuardSettings(holdout=0.0, check_range=False, max_decision_s=60.0)
OBSERVATIONS = seen(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard") / "network"
    writing.write(folder, export_of("network"), lambda part: "a card")
    return folder


def guard_of(folder, settings=ALWAYS, seed=0):
    return Guard(bundle.load(folder), make("least_in_flight"), settings, np.random.default_rng(seed))


def decide(guard, num=300):
    return [
        guard.choose(observation, 0.001 * number) for number, observation in enumerate(OBSERVATIONS[:num])
    ]


def test_the_policy_decides(folder):
    guard, policy = guard_of(folder), bundle.load(folder)
    for choice, observation in zip(decide(guard), OBSERVATIONS, strict=True):
        assert choice.reason == ""
        assert choice.instance == policy.act(observation).instance
    assert guard.counts[""] == 300
    assert guard.counters() == dict.fromkeys(REASONS, 0)


def test_without_policy_the_heuristic_decides():
    guard = Guard(None, make("least_in_flight"), GuardSettings(), np.random.default_rng(0))
    assert {choice.reason for choice in decide(guard)} == {"no_policy"}


def test_out_of_range_its_own_fallback_decides(folder):
    guard, policy = guard_of(folder, replace(ALWAYS, check_range=True)), bundle.load(folder)
    for choice, observation in zip(decide(guard), OBSERVATIONS, strict=True):
        is_out = policy.judge(observation).is_out_of_range
        assert (choice.reason == "out_of_range") == is_out
        expected = policy.fall_back(observation) if is_out else policy.act(observation)
        np.testing.assert_array_equal(choice.scores, expected.scores)
    assert 0 < guard.counters()["out_of_range"] < 300


def broken(policy, judge):
    policy.judge = judge
    return policy


def refuse(observation, check_range):
    raise FloatingPointError("the weights are gone")


def test_what_it_raises_is_caught(folder):
    guard = guard_of(folder)
    guard.load(broken(bundle.load(folder), refuse))
    assert {choice.reason for choice in decide(guard)} == {"error"}
    assert guard.last_error == "FloatingPointError: the weights are gone"


@pytest.mark.parametrize("what", ["scores", "propensities", "masked", "too many", "beyond"])
def test_what_is_not_finite_or_not_allowed_is_not_heeded(folder, what):
    policy = bundle.load(folder)
    judge = policy.judge

    def damaged(observation, check_range):
        decision = judge(observation).decision
        instance, propensities, scores = decision
        if what == "masked":
            masked = np.flatnonzero(observation["mask"] == 0)
            instance = int(masked[0]) if len(masked) else instance
            scores = np.full_like(scores, np.nan)
        elif what in ("too many", "beyond"):  # a plan may make anything
            instance = len(scores) if what == "beyond" else int(observation["mask"].argmax())
            scores = propensities = np.eye(1, len(scores) + 1, instance)[0]
        elif what == "scores":
            scores = np.full_like(scores, np.nan)
        else:
            propensities = propensities * np.nan
        return Judged(Decision(instance, propensities, scores), False)

    guard = guard_of(folder)
    guard.load(broken(policy, damaged))
    for choice, observation in zip(decide(guard), OBSERVATIONS, strict=True):
        assert choice.reason == "not_finite"
        assert observation["mask"][choice.instance]


def test_one_that_is_slow_rests_and_is_tried_again(folder):
    policy = bundle.load(folder)
    judge = policy.judge

    def slow(observation, check_range):
        time.sleep(0.003)
        return judge(observation)

    guard = guard_of(folder, replace(ALWAYS, max_decision_s=0.002, max_slow=3, rest_s=10.0))
    guard.load(broken(policy, slow))
    reasons = [guard.choose(OBSERVATIONS[0], now_s).reason for now_s in (0, 1, 2, 3, 9, 11.9, 12.1)]
    assert reasons == ["slow", "slow", "slow", "resting", "resting", "resting", "slow"]


def test_shares_are_kept(folder):
    guard = guard_of(folder, replace(ALWAYS, share=0.3, holdout=0.2))
    for _ in range(10):
        decide(guard)
    assert guard.counters()["holdout"] == pytest.approx(600, abs=100)
    assert guard.counts[""] == pytest.approx(0.8 * 0.3 * 3000, abs=120)
    assert guard.counters()["canary"] == pytest.approx(0.8 * 0.7 * 3000, abs=150)


@pytest.mark.parametrize("policy_is", ["well", "broken"])
def test_what_is_recorded_is_how_likely_it_was_before_it_was_drawn_who_decides(folder, policy_is):
    guard = guard_of(folder, replace(ALWAYS, share=0.5, holdout=0.2, exploration=0.1))
    guard.is_recorded = True
    policy, heuristic = bundle.load(folder), make("least_in_flight")
    policy.exploration = 0.1
    heuristic.reset(np.random.default_rng(0))
    if policy_is == "broken":
        guard.load(broken(bundle.load(folder), refuse))
    for choice, observation in zip(decide(guard), OBSERVATIONS, strict=True):
        own = heuristic.act(observation).propensities
        expected = own if policy_is == "broken" else 0.4 * policy.act(observation).propensities + 0.6 * own
        np.testing.assert_allclose(choice.propensities, expected, rtol=1e-12)
    assert min(guard.counters()["holdout"], guard.counters()["canary"]) > 30


def test_shadow_decides_and_does_not_act(folder):
    guard, policy = guard_of(folder, replace(ALWAYS, is_shadow=True)), bundle.load(folder)
    agreed = 0
    for choice, observation in zip(decide(guard), OBSERVATIONS, strict=True):
        assert choice.reason == "shadow"
        agreed += choice.instance == policy.act(observation).instance
    assert 0 < guard.num_agreed == agreed < 300


def test_an_error_in_shadow_is_counted_too(folder):
    guard = guard_of(folder, replace(ALWAYS, is_shadow=True))
    guard.load(broken(bundle.load(folder), refuse))
    assert {choice.reason for choice in decide(guard)} == {"error"}


def test_the_breaker_takes_a_bad_policy_out_and_gives_it_a_trial(folder):
    settings = replace(ALWAYS, holdout=0.2, breaker=BreakerSettings(least=20, open_s=5.0))
    guard = guard_of(folder, settings)
    rng = np.random.default_rng(1)
    for number in range(300):
        choice = guard.choose(OBSERVATIONS[number], 0.001 * number)
        guard.learned(choice, (5.0 if choice.reason == "" else 1.0) + rng.random(), 0.001 * number)
    assert guard.breaker.state(0.3) == "open"
    assert guard.counters()["breaker"] > 50
    trial = [guard.choose(OBSERVATIONS[number], 6.0).reason for number in range(300)]
    assert guard.breaker.state(6.0) == "half_open"
    assert trial.count("") == pytest.approx(0.1 * 0.8 * 300, abs=20)
    guard.load(bundle.load(folder))
    assert guard.breaker.state(6.0) == "closed"


def test_what_the_policy_left_to_the_heuristic_counts_as_the_policys(folder):
    guard = guard_of(folder)
    guard.load(broken(bundle.load(folder), refuse))
    for number in range(10):
        guard.learned(guard.choose(OBSERVATIONS[number], 0.0), 1.0, 0.0)
    assert [len(losses) for losses in guard.breaker.losses.values()] == [10, 0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"share": 1.1}, "guard.share is 1.1"),
        ({"holdout": -0.1}, "guard.holdout is -0.1"),
        ({"max_decision_s": 0.0}, "guard.max_decision_s is 0.0"),
        ({"max_slow": 0}, "guard.max_slow is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        GuardSettings(**settings)


def test_shadow_says_what_the_policy_would_have_been_kept_from(folder):
    settings = replace(ALWAYS, check_range=True)
    live, shadow = guard_of(folder, settings), guard_of(folder, replace(settings, is_shadow=True))
    heuristic = make("least_in_flight")
    heuristic.reset(np.random.default_rng(0))
    decide(live)
    for choice, observation in zip(decide(shadow), OBSERVATIONS, strict=True):
        np.testing.assert_array_equal(choice.scores, heuristic.act(observation).scores)
        shadow.learned(choice, 1.0, 0.0)
    assert shadow.counters()["out_of_range"] == live.counters()["out_of_range"] > 0
    assert [len(losses) for losses in shadow.breaker.losses.values()] == [0, 0]
