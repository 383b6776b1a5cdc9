"""A sum of few terms, of other terms and weights in other contexts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.distill.basis import CONTEXTS, TERMS
from agents.distill.choice_model import ChoiceModel, Fit
from agents.distill.evaluation import compiled
from agents.distill.expression import Branch, Expression, Feature, Number, Rule, num_nodes
from agents.distill.lessons import Array, Lessons
from agents.distill.rounding import rounded
from agents.distill.unit import NO_UNIT, ratio
from agents.hyperparameters import check_counts, check_not_negative

QUANTILES = (0.2, 0.4, 0.6, 0.8)
"""Of a context, where a branch may be."""
SHORTEST = 3
"""Nodes of a weight times a feature, or of a feature over a feature."""


class Fitted(NamedTuple):
    """A rule, and what imitation still misses by it."""

    rule: Rule
    loss: float
    terms: Sequence[int]
    """Of a formula of the same length without branches."""


class Split(NamedTuple):
    """Decisions apart by their context."""

    tested: Expression
    at_most: float
    is_low: NDArray[np.bool_]
    """``[num_decisions]``."""

    @property
    def num_nodes(self) -> int:
        """Of the branch alone."""
        return num_nodes(Branch(self.tested, self.at_most, Number(0.0), Number(0.0))) - 2


class FormulaStudent:
    """Learns a cost that orders the instances as the teacher does: a conditional logit of few terms.

    Terms are chosen one by one: of those along which the loss is steepest, that with which the fit is best.
    Then the decisions are split by their context (the request, the fleet), as by SymbolicPCC's branches,
    where two formulas of half the length fit better than one.

    Args:
        max_nodes: Of the rule, as ``agents.distill.expression.num_nodes`` counts them.
        max_depth: Branches above a formula.
        num_tried: Terms, and splits, that are tried in earnest for each that is taken.
        ridge: See ``ChoiceModel``.
        min_decisions: Of which a formula is made.
    """

    def __init__(
        self,
        max_nodes: int = 30,
        max_depth: int = 1,
        num_tried: int = 5,
        ridge: float = 1e-4,
        min_decisions: int = 200,
    ) -> None:
        check_counts(num_tried=num_tried, min_decisions=min_decisions)
        if max_nodes < SHORTEST:
            raise ValueError(f"max_nodes is {max_nodes}: a formula needs {SHORTEST}")
        check_not_negative(max_depth=max_depth, ridge=ridge)
        self.max_nodes, self.max_depth, self.num_tried = max_nodes, max_depth, num_tried
        self.ridge, self.min_decisions = ridge, min_decisions

    def fit(self, lessons: Lessons) -> list[Rule]:
        """The formula that misses least and, where that has branches, the one that does without."""
        plain = self._plain(lessons, self.max_nodes)
        best = self._grown(lessons, plain, self.max_nodes, self.max_depth)
        return [best.rule] if best is plain else [best.rule, plain.rule]

    def _plain(self, lessons: Lessons, max_nodes: int) -> Fitted:
        fit = self._selected(ChoiceModel(lessons, [term.expression for term in TERMS], self.ridge), max_nodes)
        return Fitted(_sum(fit.terms, fit.weights), fit.loss, fit.terms)

    def _grown(self, lessons: Lessons, plain: Fitted, max_nodes: int, depth: int) -> Fitted:
        """The plain formula, or two on either side of the best of the most hopeful splits."""
        best = plain
        for split in self._splits(lessons, plain.terms) if depth > 0 else ():
            half, sides = (max_nodes - split.num_nodes) // 2, []
            if half < SHORTEST:
                continue
            for is_on_side in (split.is_low, ~split.is_low):
                side = lessons.take(is_on_side)
                sides.append(self._grown(side, self._plain(side, half), half, depth - 1))
            loss = sum(side.loss for side in sides)
            if loss < best.loss:
                rule = Branch(split.tested, split.at_most, *(side.rule for side in sides))
                best = Fitted(rule, loss, plain.terms)
        return best

    def _selected(self, model: ChoiceModel, max_nodes: int) -> Fit:
        """Terms chosen one by one, as many as there is room for."""
        fit = model.fit(())
        while True:
            steepest = np.argsort(-np.abs(fit.slope), kind="stable").tolist()
            possible = (
                (*fit.terms, term)
                for term in steepest
                if model.varies[term]
                and term not in fit.terms
                and _least_nodes((*fit.terms, term)) <= max_nodes
            )
            tried = [model.fit(terms) for terms in islice(possible, self.num_tried)]
            tried = [each for each in tried if num_nodes(_sum(each.terms, each.weights)) <= max_nodes]
            if not tried:
                break
            fit = min(tried, key=lambda each: each.loss)
        return fit

    def _splits(self, lessons: Lessons, terms: Sequence[int]) -> list[Split]:
        """The most hopeful: those on whose sides the same terms, weighted anew, fit best."""
        chosen, found = [TERMS[term].expression for term in terms], []
        for tested in CONTEXTS:
            values = lessons.reduced("least", compiled(tested)(lessons))
            for at_most in sorted({rounded(float(each)) for each in np.quantile(values, QUANTILES)}):
                split = Split(tested, at_most, values <= at_most)
                num_low = np.count_nonzero(split.is_low)
                if min(num_low, len(lessons) - num_low) >= self.min_decisions:
                    sides = (lessons.take(part) for part in (split.is_low, ~split.is_low))
                    models = (ChoiceModel(side, chosen, self.ridge) for side in sides)
                    found.append((sum(model.fit(range(len(chosen))).loss for model in models), split))
        found.sort(key=lambda each: each[0])
        return [split for _, split in found[: self.num_tried]]


def _least_nodes(terms: Sequence[int]) -> int:
    """Of a formula of these terms, whatever their weights turn out to be."""
    return num_nodes(_sum(terms, [2.0] * len(terms)))


def _sum(terms: Sequence[int], weights: Sequence[float] | Array) -> Expression:
    """The cost: in seconds where a time to compute tokens is in it, the first of which then has weight 1.

    Otherwise it has no unit: where it is one more, the teacher is e times less likely to choose the instance.
    Terms over the same feature stand in one quotient.
    """
    if not terms:
        return Number(0.0)
    weight_of = {TERMS[term]: float(weight) for term, weight in zip(terms, weights, strict=True)}
    first = next((term for term, weight in weight_of.items() if term.is_work and weight > 0.0), None)
    scale, unit = (1.0, NO_UNIT) if first is None else (weight_of[first], first.expression.unit)
    quotients: dict[Feature | None, list[tuple[Expression, bool]]] = {}
    for term in sorted(weight_of, key=lambda each: each != first):
        number = Number(rounded(abs(weight_of[term]) / scale), ratio(unit, term.expression.unit))
        part = term.top if term == first else number * term.top
        quotients.setdefault(term.over, []).append((part, weight_of[term] > 0.0))
    signed = []
    for over, summed in quotients.items():
        if over is None:
            signed += summed
        else:
            top, is_positive = _signed_sum(summed)
            signed.append((top / over, is_positive))
    total, is_positive = _signed_sum(signed)
    return total if is_positive else Number(-1.0) * total


def _signed_sum(summands: Sequence[tuple[Expression, bool]]) -> tuple[Expression, bool]:
    """The sum, and whether it is to be added: not where all of its parts are subtracted."""
    is_positive = any(is_added for _, is_added in summands)
    ordered = sorted(summands, key=lambda each: each[1] != is_positive)
    total = ordered[0][0]
    for summand, is_added in ordered[1:]:
        total = total + summand if is_added == is_positive else total - summand
    return total, is_positive
