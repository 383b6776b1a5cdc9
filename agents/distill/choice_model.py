"""Which instance a teacher chooses, by a conditional logit over a product of two sums of terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.optimize import minimize

from agents.distill.evaluation import compiled
from agents.distill.expression import Expression
from agents.distill.lessons import Array, Lessons

Missed: TypeAlias = Callable[[Array], tuple[float, Array]]
"""From each row's cost to a loss and its slope along them, ``[num_rows]``."""


class Fit(NamedTuple):
    """A cost that was fitted: ``(weights · terms) (1 + slowdowns · slowed)``."""

    terms: tuple[int, ...]
    """Which of the terms it sums."""
    slowed: tuple[int, ...]
    """Which of the others multiply that sum."""
    weights: Array
    """Of each term, in its own unit, ``[len(terms)]``."""
    slowdowns: Array
    """Of each of the others, likewise and never negative, ``[len(slowed)]``."""
    loss: float
    """What imitation still misses: cross entropy times what is at stake, over all decisions."""
    slopes: tuple[Array, Array]
    """Of the loss along each term and each of the others, in standard deviations."""


class ChoiceModel:
    """The probability of an instance is proportional to exp(-cost).

    What all instances of a decision have in common cancels out: a cost need only order them.

    Args:
        lessons: What is imitated.
        terms: Of the cost.
        slowed: What may multiply it.
        ridge: Weight of the squared weights, in standard deviations, per unit of what is at stake.
    """

    def __init__(
        self,
        lessons: Lessons,
        terms: Sequence[Expression],
        slowed: Sequence[Expression],
        ridge: float,
    ) -> None:
        self.terms = np.stack([compiled(term)(lessons) for term in terms])
        """In standard deviations from their decision's mean, ``[num_terms, num_rows]``."""
        own = self.terms - lessons.fleet("mean", self.terms.T).T
        self._scale = own.std(axis=1)
        self.varies = self._scale > 1e-9 * np.abs(self.terms).max(axis=1)  # terms that tell instances apart
        self._scale[~self.varies] = 1.0
        self.terms /= self._scale[:, None]
        self.slowed = np.zeros((len(slowed), len(lessons.scores)))
        """In standard deviations, ``[num_slowed, num_rows]``."""
        for place, each in enumerate(slowed):
            self.slowed[place] = compiled(each)(lessons)
        self._slowed_scale = self.slowed.std(axis=1)
        self._slowed_scale[self._slowed_scale == 0.0] = 1.0
        self.slowed /= self._slowed_scale[:, None]
        self._lessons, self._ridge = lessons, ridge * float(lessons.stakes.sum())
        self._stakes = lessons.stakes[lessons.decision]

    def fit(self, terms: Sequence[int], slowed: Sequence[int] = (), by_regret: bool = False) -> Fit:
        """The best weights of these terms.

        Args:
            terms: Of the cost.
            slowed: What multiplies it.
            by_regret: Go on from there to the least regret that is expected of a choice by these chances:
                what choices cost counts, not how many are the teacher's.
        """
        tables = self.terms[list(terms)], self.slowed[list(slowed)]
        at = np.concatenate([np.full(len(terms), 0.1), np.zeros(len(slowed))])
        bounds = [(None, None)] * len(terms) + [(0.0, None)] * len(slowed)
        for missed in (self.surprise, self.regret) if by_regret else (self.surprise,):
            if len(at):
                arguments = (*tables, missed)
                at = minimize(self.objective, at, arguments, jac=True, method="L-BFGS-B", bounds=bounds).x
        weights, slowdowns = at[: len(terms)], at[len(terms) :]
        cost, factor = weights @ tables[0], 1.0 + slowdowns @ tables[1]
        loss, slope = self.surprise(cost * factor)
        return Fit(
            tuple(terms),
            tuple(slowed),
            weights / self._scale[list(terms)],
            slowdowns / self._slowed_scale[list(slowed)],
            loss,
            (self.terms @ (slope * factor), self.slowed @ (slope * cost)),
        )

    def objective(self, at: Array, terms: Array, slowed: Array, missed: Missed) -> tuple[float, Array]:
        """What is minimised, and its slope along the weights of the terms and then of what multiplies them.

        Args:
            at: Those weights, ``[num_terms + num_slowed]``.
            terms: Their tables, ``[num_terms, num_rows]``.
            slowed: Likewise.
            missed: ``surprise`` or ``regret``.
        """
        weights, slowdowns = at[: len(terms)], at[len(terms) :]
        cost, factor = weights @ terms, 1.0 + slowdowns @ slowed
        loss, slope = missed(cost * factor)
        slopes = np.concatenate([terms @ (slope * factor), slowed @ (slope * cost)])
        return loss + self._ridge * float(at @ at), slopes + 2.0 * self._ridge * at

    def surprise(self, costs: Array) -> tuple[float, Array]:
        """Cross entropy of the teacher's choices, times what is at stake; and its slope."""
        lessons = self._lessons
        chances, logarithm = self._chances(costs)
        expected = np.add.reduceat(lessons.choice * costs, lessons.starts)
        return float(lessons.stakes @ (logarithm + expected)), self._stakes * (lessons.choice - chances)

    def regret(self, costs: Array) -> tuple[float, Array]:
        """Expected regret of a choice by these chances, and its slope."""
        lessons = self._lessons
        chances, _ = self._chances(costs)
        weighed = chances * lessons.regret
        expected = np.add.reduceat(weighed, lessons.starts)
        return float(expected.sum()), chances * expected[lessons.decision] - weighed

    def _chances(self, costs: Array) -> tuple[Array, Array]:
        """Of each row, and the logarithm of the sum of exp(-cost) of each decision."""
        lessons = self._lessons
        least = lessons.reduced("least", costs)
        likes = np.exp(least[lessons.decision] - costs)
        totals = np.add.reduceat(likes, lessons.starts)
        return likes / totals[lessons.decision], np.log(totals) - least
