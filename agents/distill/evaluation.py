"""Computes a rule in whole-array NumPy, of one decision (traced or not) or of many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Protocol, TypeAlias

import numpy as np

from agents.distill.expression import (
    INSTANCE_COLUMNS,
    REQUEST_ENTRIES,
    Arithmetic,
    Branch,
    Expression,
    Feature,
    Fleet,
    Number,
    Quantity,
    Rule,
    Statistic,
    leaves,
    sees_instances,
    tests,
)

Array: TypeAlias = Any
"""Float64, one number per instance or one for all; of a policy that is being exported a traced one."""


MAX_LISTED = 4096
"""Entries of a table of a tree's answers."""


class View(Protocol):
    """What a rule is computed from."""

    @property
    def named(self) -> dict[str, Array]:
        """What has a name and was computed already."""
        ...

    def instance(self, column: int) -> Array:
        """A column of the instances."""
        ...

    def request(self, entry: int) -> Array:
        """An entry of the request."""
        ...

    def fleet(self, statistic: Statistic, values: Array) -> Array:
        """Least, mean or most over the instances."""
        ...


Evaluate: TypeAlias = Callable[[View], Array]


def compiled(rule: Rule) -> Evaluate:
    """The function that computes it."""
    if isinstance(rule, Branch):
        if all(isinstance(leaf, Number) for leaf in leaves(rule)):
            return _tree(rule)
        tested, at_most = compiled(rule.tested), rule.at_most
        then, otherwise = _for_each(rule.then), _for_each(rule.otherwise)

        def evaluate(view: View) -> Array:
            holds = tested(view) <= at_most
            if isinstance(holds, np.bool_):  # for all instances
                return then(view) if holds else otherwise(view)
            return np.where(holds, then(view), otherwise(view))

        return evaluate
    return _expression(rule)


def _for_each(rule: Rule) -> Evaluate:
    """A number for each instance, also of what is the same for all of them."""
    evaluate = compiled(rule)
    if sees_instances(rule):
        return evaluate
    return lambda view: evaluate(view) + view.instance(0) * 0.0


def _expression(expression: Expression) -> Evaluate:
    match expression:
        case Number(value):
            return lambda view: value
        case Feature(name) if expression.is_per_instance:
            column = INSTANCE_COLUMNS[name]
            return lambda view: view.instance(column)
        case Feature(name):
            entry = REQUEST_ENTRIES[name]
            return lambda view: view.request(entry)
        case Quantity(name, of):
            return _named(name, _expression(of))
        case Fleet(statistic, of):
            values = _expression(of)
            return _named(expression.name, lambda view: view.fleet(statistic, values(view)))
        case Arithmetic(operator, left, right):
            return _arithmetic(operator, _expression(left), _expression(right))
    raise TypeError(f"{expression} is no expression")


def _named(name: str, evaluate: Evaluate) -> Evaluate:
    """Compute it once."""

    def known(view: View) -> Array:
        if name not in view.named:
            view.named[name] = evaluate(view)
        return view.named[name]

    return known


def _arithmetic(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    if operator == "+":
        return lambda view: left(view) + right(view)
    if operator == "-":
        return lambda view: left(view) - right(view)
    if operator == "*":
        return lambda view: left(view) * right(view)
    return lambda view: left(view) / np.maximum(right(view), 1.0)


def _tree(rule: Branch) -> Evaluate:
    """A tree of numbers, all branches at once, as arithmetic that can be traced.

    An instance is in the leaf whose branches all turn out as they must. Count +1 for each of them that must
    hold and -1 for each that must not: summed over those that do hold, that is the number of those that must,
    and less for any other leaf. Where it need not be traced the answer is looked up instead, by the interval
    between two thresholds that each quantity lies in: that takes half the time.
    """
    tested = list(dict.fromkeys(tests(rule)))  # each once
    quantities, of_each = [compiled(each) for each in tested], [_for_each(each) for each in tested]
    branches = _branches(rule)
    columns = [tested.index(branch.tested) for branch in branches]
    thresholds = np.array([branch.at_most for branch in branches])
    costs, signs = [], []
    for leaf, path in _paths(rule):
        costs.append(leaf.value)
        signs.append([path.get(place, 0.0) for place in range(len(branches))])
    wanted = np.array(signs).T  # [num_branches, num_leaves]
    num_wanted = (wanted > 0.0).sum(axis=0).astype(np.float64)
    values = np.array(costs)

    def answer(holds: Array) -> Array:
        return (holds.astype(np.float64) @ wanted == num_wanted).astype(np.float64) @ values

    def evaluate(view: View) -> Array:
        known = [quantity(view) for quantity in of_each]
        holds = np.concatenate([known[column][:, None] for column in columns], axis=1) <= thresholds
        return answer(holds)

    limits = [
        np.unique([each.at_most for each in branches if each.tested == quantity]) for quantity in tested
    ]
    shape = [len(each) + 1 for each in limits]
    if prod(shape) > MAX_LISTED:
        return evaluate
    answers = _answers(rule, dict(zip(tested, zip(limits, np.indices(shape), strict=True), strict=True)))

    def look_up(view: View) -> Array:
        if not isinstance(view.instance(0), np.ndarray):
            return evaluate(view)  # traced
        return answers[
            tuple(each.searchsorted(of(view)) for each, of in zip(limits, quantities, strict=True))
        ]

    return look_up


def _answers(rule: Rule, intervals: Mapping[Expression, tuple[Array, Array]]) -> Array:
    """The number at the end of a tree, by the interval between two thresholds that each quantity lies in.

    Args:
        rule: The tree.
        intervals: Quantity -> its thresholds, and the number of its interval in every entry of the result.
    """
    if not isinstance(rule, Branch):
        assert isinstance(rule, Number)
        return np.full(next(iter(intervals.values()))[1].shape, rule.value)
    limits, interval = intervals[rule.tested]
    holds = interval <= limits.searchsorted(rule.at_most)
    return np.where(holds, _answers(rule.then, intervals), _answers(rule.otherwise, intervals))


def _branches(rule: Rule) -> list[Branch]:
    """From top and left, as ``tests`` has what they test."""
    if not isinstance(rule, Branch):
        return []
    return [rule, *_branches(rule.then), *_branches(rule.otherwise)]


def _paths(rule: Rule, first: int = 0) -> list[tuple[Number, dict[int, float]]]:
    """Each leaf, with the branches above it, by their places: 1 where it must hold, -1 where not."""
    if not isinstance(rule, Branch):
        assert isinstance(rule, Number)
        return [(rule, {})]
    then, otherwise = first + 1, first + 1 + len(_branches(rule.then))
    return [
        *((leaf, {first: 1.0, **path}) for leaf, path in _paths(rule.then, then)),
        *((leaf, {first: -1.0, **path}) for leaf, path in _paths(rule.otherwise, otherwise)),
    ]
