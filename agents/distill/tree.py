"""A shallow tree that costs each instance by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.distill.basis import CONTEXTS, EXPECTED_TTFT, FADED_TTFT, LOADED_TTFT, PRESENT, excess
from agents.distill.evaluation import compiled
from agents.distill.expression import (
    Branch,
    Expression,
    Feature,
    Number,
    Quantity,
    Rule,
    num_nodes,
    sees_instances,
)
from agents.distill.lessons import Lessons
from agents.distill.rounding import rounded
from agents.hyperparameters import check_counts, check_range


def _tested() -> tuple[Expression, ...]:
    own: list[Feature | Quantity] = [*PRESENT, EXPECTED_TTFT, LOADED_TTFT, FADED_TTFT]
    return (*own, *(excess(each) for each in own), *CONTEXTS)


class TreeStudent:
    """Learns with which probability the teacher chooses an instance, by a regression tree (scikit-learn).

    The tree sees one instance at a time: its features, times to the first token that follow from them, how
    far all of these are above the least of the fleet, the request, and some statistics of the fleet. So it
    holds for any number of instances in any order.

    Args:
        max_nodes: Of the rule, as ``agents.distill.expression.num_nodes`` counts them.
        max_depth: Branches above a leaf.
        min_weight: Least share of the decisions' weight that a leaf is made of.
        max_tested: Different things that a tree tests.
        num_rules: That are worth a try.
        num_selecting: Decisions that a tree is grown on, at most.
    """

    def __init__(
        self,
        max_nodes: int = 30,
        max_depth: int = 5,
        min_weight: float = 0.001,
        max_tested: int = 5,
        num_rules: int = 3,
        num_selecting: int = 3000,
    ) -> None:
        check_counts(max_nodes=max_nodes, max_depth=max_depth, max_tested=max_tested)
        check_counts(num_rules=num_rules, num_selecting=num_selecting)
        check_range(0.0, 0.5, min_weight=min_weight)
        if max_nodes < 3:
            raise ValueError(f"max_nodes is {max_nodes}: a tree needs 3, a branch and two leaves")
        self.max_nodes, self.max_depth, self.min_weight = max_nodes, max_depth, min_weight
        self.max_tested, self.num_rules, self.num_selecting = max_tested, num_rules, num_selecting

    def fit(self, lessons: Lessons) -> list[Rule]:
        """The trees by which least is lost, of those that are not too large.

        What is tested has a length too. So trees grow on the one, two, three, ... things that are the most
        important ones to a tree on everything up to some length, each to the size for which there is then
        room.
        """
        try:
            from sklearn.tree import DecisionTreeRegressor
        except ImportError as error:
            raise ImportError(
                f"trees need {error.name}, which is not installed: pip install 'routegym[distill]'"
            ) from error

        lessons = lessons.thinned(self.num_selecting)
        everything = _tested()
        table = np.stack([compiled(each)(lessons) for each in everything], axis=1).astype(np.float32)
        stakes = lessons.stakes[lessons.decision]
        regrets: dict[Rule, float] = {}

        def grown(columns: NDArray[np.intp], num_leaves: int) -> Any:
            tree = DecisionTreeRegressor(
                max_depth=self.max_depth,
                max_leaf_nodes=num_leaves,
                min_weight_fraction_leaf=self.min_weight,
                random_state=0,
            )
            return tree.fit(table[:, columns], -lessons.choice, stakes).tree_

        most_leaves = (self.max_nodes + 1) // 2
        lengths = np.array([num_nodes(each) for each in everything])
        for longest in np.unique(lengths[lengths <= self.max_nodes - 2]):
            possible = np.flatnonzero(lengths <= longest)
            importance = grown(possible, most_leaves).compute_feature_importances()
            ranked = possible[np.argsort(-importance, kind="stable")][: np.count_nonzero(importance)]
            for num_tested in range(1, min(self.max_tested, len(ranked)) + 1):
                columns = ranked[:num_tested]
                tested = [everything[column] for column in columns]
                for num_leaves in range(most_leaves, 1, -1):
                    rule = _rule(grown(columns, num_leaves), tested, 0)
                    if num_nodes(rule) <= self.max_nodes:
                        if sees_instances(rule):  # else, or where it is a leaf alone, it cannot choose
                            regrets[rule] = lessons.mean_regret(compiled(rule)(lessons))
                        break
        if not regrets:
            raise ValueError(f"max_nodes is {self.max_nodes}: no tree of so few nodes can choose; give more")
        return sorted(regrets, key=lambda rule: regrets[rule])[: self.num_rules]


def _rule(tree: Any, tested: Sequence[Expression], node: int) -> Rule:
    """The rule below a node of scikit-learn's tree."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left == right:
        return Number(rounded(float(tree.value[node, 0, 0])))
    then, otherwise = _rule(tree, tested, left), _rule(tree, tested, right)
    return Branch(tested[tree.feature[node]], rounded(float(tree.threshold[node])), then, otherwise)
