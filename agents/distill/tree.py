"""A shallow tree that costs each instance by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.distill.basis import CONTEXTS, EXPECTED_TTFT, PRESENT, excess
from agents.distill.evaluation import compiled
from agents.distill.expression import (
    Branch,
    Expression,
    Feature,
    Number,
    Quantity,
    Rule,
    num_nodes,
)
from agents.distill.lessons import Lessons
from agents.distill.rounding import rounded
from agents.hyperparameters import check_counts, check_range


def _tested() -> tuple[Expression, ...]:
    own: list[Feature | Quantity] = [*PRESENT, EXPECTED_TTFT]
    return (*own, *(excess(each) for each in own), *CONTEXTS)


class TreeStudent:
    """Learns with which probability the teacher chooses an instance, by a regression tree (scikit-learn).

    The tree sees one instance at a time: its features, how far they are above the least of the fleet, the
    request, and some statistics of the fleet. So it holds for any number of instances in any order.

    Args:
        max_nodes: Of the rule, as ``agents.distill.expression.num_nodes`` counts them.
        max_depth: Branches above a leaf.
        min_weight: Least share of the decisions' weight that a leaf is made of.
    """

    def __init__(self, max_nodes: int = 30, max_depth: int = 5, min_weight: float = 0.001) -> None:
        check_counts(max_nodes=max_nodes, max_depth=max_depth)
        check_range(0.0, 0.5, min_weight=min_weight)
        if max_nodes < 3:
            raise ValueError(f"max_nodes is {max_nodes}: a tree needs 3, a branch and two leaves")
        self.max_nodes, self.max_depth, self.min_weight = max_nodes, max_depth, min_weight

    def fit(self, lessons: Lessons) -> list[Rule]:
        """The tree that fits best of those that are not too large.

        What is tested has a length too. So trees grow on the one, two, three, ... things that are the most
        important ones to a tree on everything, each to the size for which there is then room.
        """
        try:
            from sklearn.tree import DecisionTreeRegressor
        except ImportError as error:
            raise ImportError(
                f"trees need {error.name}, which is not installed: pip install 'routegym[distill]'"
            ) from error

        tested = _tested()
        table = np.stack([compiled(each)(lessons) for each in tested], axis=1).astype(np.float32)
        weights = lessons.stakes[lessons.decision]

        def grown(columns: NDArray[np.intp], num_leaves: int) -> DecisionTreeRegressor:
            tree = DecisionTreeRegressor(
                max_depth=self.max_depth,
                max_leaf_nodes=num_leaves,
                min_weight_fraction_leaf=self.min_weight,
                random_state=0,
            )
            return tree.fit(table[:, columns], lessons.choice, weights)

        most_leaves = (self.max_nodes + 1) // 2
        importance = grown(np.arange(len(tested)), most_leaves).feature_importances_
        ranked = np.argsort(-importance, kind="stable")
        best: tuple[float, Rule] | None = None
        for num_tested in range(1, np.count_nonzero(importance) + 1):
            columns = ranked[:num_tested]
            for num_leaves in range(most_leaves, 1, -1):
                tree = grown(columns, num_leaves)
                rule = _rule(tree.tree_, [tested[column] for column in columns], 0)
                if num_nodes(rule) <= self.max_nodes:
                    score = tree.score(table[:, columns], lessons.choice, weights)
                    if isinstance(rule, Branch) and (best is None or score > best[0]):
                        best = score, rule
                    break
        if best is None:
            raise ValueError(f"max_nodes is {self.max_nodes}: no tree of so few nodes can choose; give more")
        return [best[1]]


def _rule(tree: Any, tested: Sequence[Expression], node: int) -> Rule:
    """The rule below a node of scikit-learn's tree."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left == right:
        return Number(rounded(-float(tree.value[node, 0, 0])))
    then, otherwise = _rule(tree, tested, left), _rule(tree, tested, right)
    return Branch(tested[tree.feature[node]], rounded(float(tree.threshold[node])), then, otherwise)
