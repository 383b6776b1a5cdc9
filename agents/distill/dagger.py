"""Learning from a teacher in the situations that the student itself gets into.

DAgger (Ross, Gordon, Bagnell: A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning, AISTATS 2011) with VIPER's weights (``Lessons.stakes``). The teacher routes first. Then, round after
round, the student routes, the teacher says what it thinks of the instances, and the student learns anew from
all that was said so far: to lose as little as it can by its choices, as the teacher sees it. Weights or none,
the rule is taken that routes best on streams set aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import isnan
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.distill.expression import Rule
from agents.distill.lessons import Lessons, concatenate
from agents.distill.policy import Distilled
from agents.metrics import requests_of
from agents.per_router import per_router
from agents.policy import Decision, Foreseeing, Policy
from agents.rollout import finish, play, policy_rng, replay
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import RoutingEnv


class Student(Protocol):
    """Learns rules."""

    def fit(self, lessons: Lessons) -> list[Rule]:
        """Rules that are worth a try; the first of them imitates best what the teacher thought."""
        ...


class Attempt(NamedTuple):
    """A rule, and how it routed the streams that attempts are compared on."""

    rule: Rule
    num_lessons: int
    """Decisions that it was learned from."""
    ttft_mean_s: float


class Distillation(NamedTuple):
    """What a student learned from a policy."""

    attempts: Sequence[Attempt]

    @property
    def rule(self) -> Rule:
        """That of the attempt of lowest mean TTFT; one that served nobody has none."""
        return min(self.attempts, key=lambda attempt: (isnan(attempt.ttft_mean_s), attempt.ttft_mean_s)).rule


def distil(
    env: RoutingEnv, teacher: Policy, student: Student, seed: int, num_rounds: int, num_decisions: int
) -> Distillation:
    """Let a student learn from a teacher, which learns nothing meanwhile.

    Args:
        env: Where both route.
        teacher: Whom to imitate; it is left as it is.
        student: Who learns.
        seed: Of the first stream. The next ones have the seeds after it, each its own.
        num_rounds: Of learning, each with one attempt or more.
        num_decisions: Per round, at least; episodes are whole. Attempts are compared on as many.

    Raises:
        ValueError: The teacher prefers no instance to another.
    """
    teacher, acting, lessons, rules = deepcopy(teacher), None, [], []
    for _ in range(num_rounds):
        num_wanted = num_decisions
        while num_wanted > 0:
            lesson = taught(env, teacher, acting, seed)
            lessons.append(lesson)
            num_wanted -= len(lesson)
            seed += 1
        learned = concatenate(lessons)
        if not learned.stakes.any():
            raise ValueError(
                "the teacher scored all instances alike in every decision: there is nothing to distil; give a"
                " policy that prefers some instances to others, and a fleet of more than one"
            )
        fitted = student.fit(learned)
        acting = Distilled(fitted[0])
        rules += [(rule, len(learned)) for rule in (*fitted, *student.fit(learned.levelled()))]
    ttft_mean_s = {rule: _ttft_mean_s(env, rule, seed, num_decisions) for rule in dict(rules)}
    return Distillation([Attempt(rule, number, ttft_mean_s[rule]) for rule, number in rules])


def taught(env: RoutingEnv, teacher: Policy, acting: Policy | None, seed: int) -> Lessons:
    """What a teacher thinks of the decisions of an episode; it learns nothing meanwhile.

    Args:
        env: Where the episode is played.
        teacher: Who says what it thinks of the instances. One that foresees routes the episode itself,
            whoever else could: what it says holds for that one alone.
        acting: Who routes. None: the teacher.
        seed: Of the episode.
    """
    if isinstance(teacher, Foreseeing):
        teacher.foresee(env, seed)
        noting = _Taught(teacher, None)
    else:
        noting = _Taught(per_router(teacher, env), None if acting is None else per_router(acting, env))
    noting.reset(policy_rng(seed))
    finish(env, noting, replay(env, seed, (), ()))
    return noting.lessons()


def _ttft_mean_s(env: RoutingEnv, rule: Rule, seed: int, num_decisions: int) -> float:
    ttft_s: list[float] = []
    while len(ttft_s) < num_decisions:
        ledger = requests_of(play(env, Distilled(rule), seed).ledger)
        ttft_s += ledger["ttft_s"].tolist()
        seed += 1
    return float(np.nanmean(ttft_s))


class _Taught:
    """A policy beside whom a teacher looks on."""

    def __init__(self, teacher: Policy, acting: Policy | None) -> None:
        self._teacher, self._acting = teacher, acting
        self._noted: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; who acts has the chances that it has alone."""
        (self._acting or self._teacher).reset(rng)
        if self._acting is not None:
            self._teacher.reset(rng.spawn(1)[0])

    def act(self, observation: Observation) -> Decision:
        """Decide as who acts; note what the teacher thinks."""
        thought = self._teacher.act(observation)
        valid = observation["mask"].nonzero()[0]
        instances, request = (observation[name].astype(np.float64) for name in ("instances", "request"))
        self._noted.append((instances[valid], thought.scores[valid], request))
        return thought if self._acting is None else self._acting.act(observation)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Learn nothing: who teaches does not change meanwhile."""

    def counters(self) -> Mapping[str, int]:
        """None."""
        return {}

    def lessons(self) -> Lessons:
        """All that was noted."""
        instances, scores, requests = zip(*self._noted, strict=True)
        return Lessons(
            np.concatenate(instances),
            np.concatenate(scores),
            np.stack(requests),
            np.array([len(each) for each in scores]),
        )
