"""A distilled rule, routing."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from agents.distill.evaluation import compiled
from agents.distill.expression import Rule, Statistic, sees_instances
from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, least, most


class Distilled(Heuristic):
    """Takes an instance of least cost by a rule, random among equals.

    Raises ``ValueError`` where the rule costs the same for all instances, whatever they are.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, rule: Rule) -> None:
        if not sees_instances(rule):
            raise ValueError("the rule looks at no feature of the instances: it cannot choose between them")
        self.rule = rule
        self._evaluate = compiled(rule)

    def costs(self, candidates: Candidates) -> Array:
        """Price by the rule."""
        costs: Array = self._evaluate(_Decision(candidates))
        return costs


class _Decision:
    """The candidates of one decision, as a rule looks at them."""

    def __init__(self, candidates: Candidates) -> None:
        self._instances = candidates.instances
        self._request = candidates.request.astype(np.float64)

    def instance(self, column: int) -> Any:
        return self._instances[:, column]

    def request(self, entry: int) -> Any:
        return self._request[entry]

    def fleet(self, statistic: Statistic, values: Any) -> Any:
        if statistic == "mean":
            return values.sum() / values.size
        return least(values) if statistic == "least" else most(values)
