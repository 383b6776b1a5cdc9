"""Students learn on the states that they get into themselves, from a teacher who stays as it is."""

from contextlib import closing
from copy import deepcopy

import numpy as np
import pytest

from agents.build_env import build_env
from agents.distill.dagger import Attempt, Distillation, distil
from agents.distill.expression import Feature
from agents.distill.policy import Distilled
from agents.export.parity import observe
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.policy import Decision
from agents.rollout import play
from tests.agents.bandits.two_speed_fleet import Fleet
from tests.agents.test_programs import TINY, configured


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    config = configured("train", tmp_path_factory.mktemp("run"), *TINY)
    with closing(build_env(config)) as env:
        yield env


class Noting:
    """Learns nothing, takes a rule after the other, twice each, and keeps what it was taught."""

    def __init__(self, *rules):
        self.rules, self.taught = list(rules), []

    def fit(self, lessons):
        self.taught.append(lessons)
        return [self.rules[(len(self.taught) - 1) // 2]]


RULES = Feature("num_waiting"), Feature("num_in_flight"), Feature("num_uncached_tokens")


def test_an_attempt_that_served_nobody_is_not_taken():
    attempts = [Attempt(rule, 1, ttft_s) for rule, ttft_s in zip(RULES, (np.nan, 2.0, 1.0), strict=True)]
    assert Distillation(attempts).rule == RULES[2]


def test_the_teacher_acts_first_and_the_student_then(env):
    student = Noting(*RULES)
    distil(env, LlmdTokenLoad(), student, seed=3, num_rounds=3, num_decisions=60)
    weighed, levelled = student.taught[::2], student.taught[1::2]
    assert [len(lessons) for lessons in weighed] == [80, 160, 240]  # whole episodes of 40
    last = weighed[-1]
    np.testing.assert_array_equal(levelled[-1].scores, last.levelled().scores)
    acted = (LlmdTokenLoad(), Distilled(RULES[0]), Distilled(RULES[1]))
    for number, policy in enumerate(acted):
        seen = [look for seed in (3, 4) for look in observe(env, policy, seed + 2 * number, 40)]
        valid = [look["instances"][look["mask"] == 1] for look in seen]
        part = last.take(np.arange(240) // 80 == number)
        np.testing.assert_array_equal(part.instances, np.concatenate(valid))
        np.testing.assert_array_equal(part.requests, [look["request"] for look in seen])
    teacher = LlmdTokenLoad()
    teacher.reset(np.random.default_rng(0))
    thought = [teacher.act(look).scores[look["mask"] == 1] for look in seen]
    np.testing.assert_array_equal(part.scores, np.concatenate(thought))


def test_the_attempt_that_routes_best_is_taken(env):
    result = distil(env, LlmdTokenLoad(), Noting(*RULES), seed=0, num_rounds=3, num_decisions=40)
    assert [attempt.rule for attempt in result.attempts] == [rule for rule in RULES for _ in range(2)]
    for attempt in result.attempts:  # the streams after those of the three rounds
        ledger = play(env, Distilled(attempt.rule), 3).ledger
        assert attempt.ttft_mean_s == pytest.approx(ledger["ttft_s"].mean())
    best = min(result.attempts, key=lambda attempt: attempt.ttft_mean_s)
    assert result.rule == best.rule


def test_a_teacher_that_learns_is_left_as_it_was(env):
    from agents.bandits.linucb import LinUCB

    teacher = LinUCB()
    teacher.reset(np.random.default_rng(0))
    Fleet(seed=5, delay=3).run(teacher, 50)
    before = deepcopy(teacher.state())
    student = Noting(*RULES)
    distil(env, teacher, student, seed=0, num_rounds=2, num_decisions=40)
    np.testing.assert_equal(teacher.state(), before)
    again = Noting(*RULES)
    distil(env, teacher, again, seed=0, num_rounds=2, num_decisions=40)
    np.testing.assert_array_equal(student.taught[-1].scores, again.taught[-1].scores)


class Indifferent(LeastInFlight):
    def act(self, observation):
        decision = super().act(observation)
        return Decision(decision.instance, decision.propensities, np.zeros(len(decision.scores)))


def test_indifference_cannot_be_distilled(env):
    with pytest.raises(ValueError, match="scored all instances alike in every decision: there is nothing"):
        distil(env, Indifferent(), Noting(*RULES), seed=0, num_rounds=1, num_decisions=10)
