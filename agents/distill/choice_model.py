"""Which instance a teacher chooses, by a conditional logit over terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from agents.distill.evaluation import compiled
from agents.distill.expression import Expression
from agents.distill.lessons import Array, Lessons


class Fit(NamedTuple):
    """A cost that was fitted."""

    terms: tuple[int, ...]
    """Which of the terms it sums."""
    weights: Array
    """Of each, in its own unit, ``[len(terms)]``."""
    loss: float
    """What imitation still misses: cross entropy times what is at stake, over all decisions."""
    slope: Array
    """Of the loss along every term, in standard deviations, ``[num_terms]``."""


class ChoiceModel:
    """The probability of an instance is proportional to exp(-cost), the cost a weighted sum of terms.

    What all instances of a decision have in common cancels out: a cost need only order them.

    Args:
        lessons: What is imitated.
        terms: Of the cost.
        ridge: Weight of the squared weights, in standard deviations, per unit of what is at stake.
    """

    def __init__(self, lessons: Lessons, terms: Sequence[Expression], ridge: float) -> None:
        table = np.stack([compiled(term)(lessons) for term in terms], axis=1)
        table -= lessons.fleet("mean", table)
        self._scale = table.std(axis=0)
        self.varies = self._scale > 1e-9 * np.abs(table).max(axis=0)  # terms that tell instances apart
        self._scale[~self.varies] = 1.0
        self.table = np.ascontiguousarray((table / self._scale).T)
        """The terms in standard deviations from their decision's mean, ``[num_terms, num_rows]``."""
        self._lessons, self._ridge = lessons, ridge * float(lessons.stakes.sum())
        self._stakes = lessons.stakes[lessons.decision]

    def fit(self, terms: Sequence[int]) -> Fit:
        """The best weights of these terms."""
        chosen = list(terms)
        table = self.table[chosen]
        weights = np.zeros(0)
        if chosen:
            weights = minimize(
                self.objective, np.zeros(len(chosen)), args=(table,), jac=True, method="L-BFGS-B"
            ).x
        loss, missed = self._missed(weights @ table)
        return Fit(tuple(chosen), weights / self._scale[chosen], loss, self.table @ missed)

    def objective(self, weights: Array, table: Array) -> tuple[float, Array]:
        """What is minimised, and its slope along the weights."""
        loss, missed = self._missed(weights @ table)
        penalty = self._ridge * float(weights @ weights)
        return loss + penalty, table @ missed + 2.0 * self._ridge * weights

    def _missed(self, costs: Array) -> tuple[float, Array]:
        """The loss, and its slope along each row's cost."""
        lessons = self._lessons
        least = lessons.reduced("least", costs)
        likes = np.exp(least[lessons.decision] - costs)
        totals = np.add.reduceat(likes, lessons.starts)
        expected = np.add.reduceat(lessons.choice * costs, lessons.starts)
        surprise = np.log(totals) + expected - least
        slope = self._stakes * (lessons.choice - likes / totals[lessons.decision])
        return float(lessons.stakes @ surprise), slope
