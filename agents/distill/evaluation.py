"""Computes a rule in whole-array NumPy, of one decision (traced or not) or of many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol, TypeAlias

import numpy as np

from agents.distill.expression import (
    Branch,
    Expression,
    Number,
    Rule,
    Statistic,
    leaves,
    tests,
)
from agents.distill.source import FOR_EACH, Source

Array: TypeAlias = Any
"""Float64, one number per instance or one for all; of a policy that is being exported a traced one."""


MAX_LISTED = 4096
"""Entries of a table of a tree's answers."""


class View(Protocol):
    """What a rule is computed from."""

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
    if isinstance(rule, Branch) and all(isinstance(leaf, Number) for leaf in leaves(rule)):
        return _tree(rule)
    source = Source()
    return source.function(source.body(rule, {}))


def _tree(rule: Branch) -> Evaluate:
    """A tree of numbers: looked up by the interval between two thresholds that each quantity lies in.

    That takes half the time of the arithmetic, by which it is computed where it is traced.
    """
    tested = list(dict.fromkeys(tests(rule)))  # each once
    branches = _branches(rule)
    source, names = Source(), dict[Expression, str]()
    lines = source.definitions(tested, names)
    quantities = [source.formula(each, names) for each in tested]
    of_each = [
        text if each.is_per_instance else f"{text} + {FOR_EACH}"
        for each, text in zip(tested, quantities, strict=True)
    ]
    by_arithmetic = f"return {source.bind(_arithmetic(rule, tested))}([{', '.join(of_each)}])"
    limits = [
        np.unique([each.at_most for each in branches if each.tested == quantity]) for quantity in tested
    ]
    shape = [len(each) + 1 for each in limits]
    if prod(shape) > MAX_LISTED:
        return source.function([*lines, by_arithmetic])
    answers = _answers(rule, dict(zip(tested, zip(limits, np.indices(shape), strict=True), strict=True)))
    intervals = [
        f"{source.bind(each.searchsorted)}({text})" for each, text in zip(limits, quantities, strict=True)
    ]
    is_traced = f"not isinstance(view.instance(0), {source.bind(np.ndarray)})"
    looked_up = f"return {source.bind(answers)}[{', '.join(intervals)}]"
    return source.function([*lines, f"if {is_traced}: {by_arithmetic}", looked_up])


def _arithmetic(rule: Branch, tested: Sequence[Expression]) -> Callable[[Sequence[Array]], Array]:
    """From what is tested to a tree's numbers, all branches at once, as arithmetic that can be traced.

    An instance is in the leaf whose branches all turn out as they must. Count +1 for each of them that must
    hold and -1 for each that must not: summed over those that do hold, that is the number of those that must,
    and less for any other leaf.
    """
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

    def computed(quantities: Sequence[Array]) -> Array:
        holds = np.concatenate([quantities[column][:, None] for column in columns], axis=1) <= thresholds
        return (holds.astype(np.float64) @ wanted == num_wanted).astype(np.float64) @ values

    return computed


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
