"""What a teacher thought of the instances, decision by decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.distill.expression import Statistic

Array = NDArray[np.float64]

_REDUCTIONS = {"least": np.minimum, "mean": np.add, "most": np.maximum}


@dataclass(frozen=True)
class Lessons:
    """Decisions, one below the other; an ``agents.distill.evaluation.View`` of all at once."""

    instances: Array
    """Raw features of the instances that could be chosen, ``[num_rows, num_instance_features]``."""
    scores: Array
    """What the teacher thought of them: the higher the better, ``[num_rows]``."""
    requests: Array
    """``[num_decisions, num_request_features]``."""
    num_instances: NDArray[np.int64]
    """Rows of each decision, at least one, ``[num_decisions]``."""

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each decision, ``[num_decisions]``."""
        return np.cumsum(self.num_instances) - self.num_instances

    @cached_property
    def decision(self) -> NDArray[np.int64]:
        """Decision of each row, ``[num_rows]``."""
        return np.repeat(np.arange(len(self)), self.num_instances)

    def reduced(self, statistic: Statistic, values: Array) -> Array:
        """Least, mean or most within each decision: ``[num_rows]`` or more columns to ``[num_decisions]``."""
        reduced: Array = _REDUCTIONS[statistic].reduceat(values, self.starts)
        if statistic == "mean":
            reduced /= self.num_instances if reduced.ndim == 1 else self.num_instances[:, None]
        return reduced

    def instance(self, column: int) -> Array:
        """A column of the instances, ``[num_rows]``."""
        return self.instances[:, column]

    def request(self, entry: int) -> Array:
        """An entry of the request, the same in all rows of a decision, ``[num_rows]``."""
        of_rows: Array = self.requests[self.decision, entry]
        return of_rows

    def fleet(self, statistic: Statistic, values: Array) -> Array:
        """A statistic within each decision, the same in all its rows, ``[num_rows]``."""
        of_rows: Array = self.reduced(statistic, values)[self.decision]
        return of_rows

    @cached_property
    def choice(self) -> Array:
        """The teacher's: 1 for the best row of a decision, shared between equals, else 0, ``[num_rows]``."""
        is_best = self.scores == self.fleet("most", self.scores)
        choice: Array = is_best / np.add.reduceat(is_best, self.starts)[self.decision]
        return choice

    @cached_property
    def stakes(self) -> Array:
        """What is lost by the worst choice instead of the best, as the teacher sees it, ``[num_decisions]``.

        VIPER's weights (Bastani, Pu, Solar-Lezama: Verifiable Reinforcement Learning via Policy Extraction,
        NeurIPS 2018): decisions that do not matter need not be imitated.
        """
        return self.reduced("most", self.scores) - self.reduced("least", self.scores)

    @cached_property
    def regret(self) -> Array:
        """What is lost by each choice instead of the best, as the teacher sees it, ``[num_rows]``."""
        regret: Array = self.fleet("most", self.scores) - self.scores
        return regret

    def mean_regret(self, costs: Array) -> float:
        """Of the choice of least cost, equals being equally likely.

        Args:
            costs: Of each row, ``[num_rows]``, or one of all where a rule is a number.
        """
        costs = costs + np.zeros_like(self.scores)
        is_least = costs == self.fleet("least", costs)
        num_least = np.add.reduceat(is_least, self.starts)[self.decision]
        return float((is_least / num_least * self.regret).sum() / len(self))

    def thinned(self, num_decisions: int) -> Lessons:
        """So many of the decisions at most, evenly spread."""
        every = -(-len(self) // num_decisions)
        return self.take(np.arange(len(self)) % every == 0)

    def levelled(self) -> Lessons:
        """The same choices, with as much at stake in every decision where there is anything at stake."""
        stakes = np.where(self.stakes > 0.0, self.stakes, 1.0)
        scores = self.scores / stakes[self.decision]
        return Lessons(self.instances, scores, self.requests, self.num_instances)

    def take(self, chosen: NDArray[np.bool_]) -> Lessons:
        """Some of the decisions: those where ``chosen``, ``[num_decisions]``."""
        rows = chosen[self.decision]
        return Lessons(
            self.instances[rows], self.scores[rows], self.requests[chosen], self.num_instances[chosen]
        )


def concatenate(lessons: Sequence[Lessons]) -> Lessons:
    """All of them in one."""
    return Lessons(
        np.concatenate([each.instances for each in lessons]),
        np.concatenate([each.scores for each in lessons]),
        np.concatenate([each.requests for each in lessons]),
        np.concatenate([each.num_instances for each in lessons]),
    )
