"""A sum of few terms, slowed down by a few others; of other terms and weights in other contexts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from agents.distill.basis import CONTEXTS, ONE, SLOWED, TERMS
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
    """A rule, and what is lost by it."""

    rule: Rule
    regret: float
    """Mean over decisions, in the teacher's scores, of the choice of least cost instead of the teacher's."""
    fit: Fit
    """Of the formula, or of one of the same length without branches."""


class Split(NamedTuple):
    """Decisions apart by their context."""

    tested: Expression
    at_most: float

    @property
    def num_nodes(self) -> int:
        """Of the branch alone."""
        return num_nodes(Branch(self.tested, self.at_most, Number(0.0), Number(0.0))) - 2

    def sides(self, lessons: Lessons) -> tuple[Lessons, Lessons]:
        """Decisions up to the threshold, and above it."""
        is_low = lessons.reduced("least", compiled(self.tested)(lessons)) <= self.at_most
        return lessons.take(is_low), lessons.take(~is_low)


class FormulaStudent:
    """Learns a cost that orders the instances as the teacher does, ``sum of terms · (1 + sum of others)``.

    So it can be a wait and the own work, longer where an instance is full and where many come meanwhile.
    Terms are chosen one by one, by a beam search: of those along which the loss of a conditional logit is
    steepest, those with which the fit is best. Their weights are then fitted to what the choices cost too,
    and the rules are ranked by the regret of choosing by them. Then the decisions are split by their context
    (the request, the fleet), as by SymbolicPCC's branches, where two formulas of half the length lose less.

    Args:
        max_nodes: Of the rule, as ``agents.distill.expression.num_nodes`` counts them.
        max_depth: Branches above a formula.
        num_finalists: Choices of terms that are fitted on all decisions, and to what the choices cost.
        num_rules: Of those, how many are worth a try.
        beam: Sums that are made longer at a time.
        num_tried: Terms, and others, that are tried in earnest for each that is taken.
        num_splits: Splits that are tried in earnest.
        num_selecting: Decisions that terms are chosen on, at most; weights are fitted on all.
        ridge: See ``ChoiceModel``.
        min_decisions: Of which a formula is made.
    """

    def __init__(
        self,
        max_nodes: int = 30,
        max_depth: int = 1,
        num_finalists: int = 20,
        num_rules: int = 3,
        beam: int = 6,
        num_tried: int = 6,
        num_splits: int = 2,
        num_selecting: int = 2000,
        ridge: float = 1e-4,
        min_decisions: int = 200,
    ) -> None:
        check_counts(num_finalists=num_finalists, num_rules=num_rules, beam=beam, num_tried=num_tried)
        check_counts(num_splits=num_splits, num_selecting=num_selecting, min_decisions=min_decisions)
        if max_nodes < SHORTEST:
            raise ValueError(f"max_nodes is {max_nodes}: a formula needs {SHORTEST}")
        check_not_negative(max_depth=max_depth, ridge=ridge)
        self.max_nodes, self.max_depth, self.num_rules, self.beam = max_nodes, max_depth, num_rules, beam
        self.num_finalists, self.num_tried, self.num_selecting = num_finalists, num_tried, num_selecting
        self.num_splits, self.ridge, self.min_decisions = num_splits, ridge, min_decisions

    def fit(self, lessons: Lessons) -> list[Rule]:
        """The formulas by which least is lost and, where one with branches loses less, that before them."""
        plain = self._plain(lessons, self.max_nodes)[: self.num_rules]
        if not plain:
            raise ValueError(
                f"max_nodes is {self.max_nodes}: no formula of so few nodes can choose; give more"
            )
        best = self._grown(lessons, plain[0], self.max_nodes, self.max_depth)
        return [each.rule for each in ([] if best is plain[0] else [best]) + plain]

    def _plain(self, lessons: Lessons, max_nodes: int) -> list[Fitted]:
        """Formulas without branches, those by which least is lost first."""
        chosen = self._selected(self._model(lessons.thinned(self.num_selecting)), max_nodes)
        model, found = self._model(lessons), []
        for fit in chosen:
            fits = (model.fit(fit.terms, fit.slowed, by_regret) for by_regret in (False, True))
            fitted = [self._judged(each, lessons) for each in fits]
            possible = [each for each in fitted if num_nodes(each.rule) <= max_nodes]
            if possible:
                found.append(min(possible, key=lambda each: each.regret))
        return sorted(found, key=lambda each: each.regret)

    def _judged(self, fit: Fit, lessons: Lessons) -> Fitted:
        rule = _cost(fit)
        return Fitted(rule, lessons.mean_regret(compiled(rule)(lessons)), fit)

    def _grown(self, lessons: Lessons, plain: Fitted, max_nodes: int, depth: int) -> Fitted:
        """The plain formula, or two on either side of the best of the most hopeful splits."""
        best = plain
        for split in self._splits(lessons, plain.fit) if depth > 0 else ():
            half, sides, regret = (max_nodes - split.num_nodes) // 2, [], 0.0
            for side in split.sides(lessons):
                found = self._plain(side, half)
                if not found:  # so few nodes are none that can choose there
                    break
                sides.append(self._grown(side, found[0], half, depth - 1))
                regret += sides[-1].regret * len(side) / len(lessons)
            if len(sides) == 2 and regret < best.regret:
                rule = Branch(split.tested, split.at_most, *(side.rule for side in sides))
                best = Fitted(rule, regret, plain.fit)
        return best

    def _model(self, lessons: Lessons) -> ChoiceModel:
        return ChoiceModel(lessons, [term.expression for term in TERMS], SLOWED, self.ridge)

    def _selected(self, model: ChoiceModel, max_nodes: int) -> list[Fit]:
        """The best choices of terms, as many of them as there is room for."""
        beam = [model.fit(())]
        found: dict[tuple[frozenset[int], frozenset[int]], Fit] = {}
        while beam:
            longer = {}
            for fit in beam:
                for terms, slowed in self._longer(model, fit, max_nodes):
                    key = frozenset(terms), frozenset(slowed)
                    if key not in longer:
                        longer[key] = model.fit(terms, slowed)
            longer = {key: fit for key, fit in longer.items() if num_nodes(_cost(fit)) <= max_nodes}
            beam = sorted(longer.values(), key=lambda each: each.loss)[: self.beam]
            found |= longer
        return sorted(found.values(), key=lambda each: each.loss)[: self.num_finalists]

    def _longer(
        self, model: ChoiceModel, fit: Fit, max_nodes: int
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The most hopeful sums with a term more, or with more that slows it down."""
        of_terms, of_slowed = fit.slopes
        terms = (
            ((*fit.terms, term), fit.slowed)
            for term in np.argsort(-np.abs(of_terms), kind="stable").tolist()
            if model.varies[term] and term not in fit.terms
        )
        slowed = (
            (fit.terms, (*fit.slowed, each))
            for each in np.argsort(of_slowed, kind="stable").tolist()
            if of_slowed[each] < 0.0 and each not in fit.slowed
        )
        for longer in (terms, slowed) if fit.terms else (terms,):
            yield from islice((each for each in longer if _least_nodes(*each) <= max_nodes), self.num_tried)

    def _splits(self, lessons: Lessons, fit: Fit) -> list[Split]:
        """The most hopeful: those on whose sides the same terms, weighted anew, fit best."""
        terms, slowed = [TERMS[term].expression for term in fit.terms], [SLOWED[each] for each in fit.slowed]
        lessons, found = lessons.thinned(self.num_selecting), []
        for tested in CONTEXTS:
            values = lessons.reduced("least", compiled(tested)(lessons))
            for at_most in sorted({rounded(float(each)) for each in np.quantile(values, QUANTILES)}):
                split = Split(tested, at_most)
                sides = split.sides(lessons)
                if min(len(side) for side in sides) >= self.min_decisions:
                    models = (ChoiceModel(side, terms, slowed, self.ridge) for side in sides)
                    loss = sum(model.fit(range(len(terms)), range(len(slowed))).loss for model in models)
                    found.append((loss, split))
        found.sort(key=lambda each: each[0])
        return [split for _, split in found[: self.num_splits]]


def _least_nodes(terms: Sequence[int], slowed: Sequence[int]) -> int:
    """Of a formula of these terms, whatever their weights turn out to be."""
    return num_nodes(_product(terms, [2.0] * len(terms), slowed, [2.0] * len(slowed)))


def _cost(fit: Fit) -> Expression:
    return _product(fit.terms, fit.weights, fit.slowed, fit.slowdowns)


def _product(
    terms: Sequence[int],
    weights: Sequence[float] | Array,
    slowed: Sequence[int],
    slowdowns: Sequence[float] | Array,
) -> Expression:
    """The cost: a sum, longer by what slows it down."""
    factor: Expression = ONE
    for each, slowdown in zip(slowed, slowdowns, strict=True):
        if slowdown > 0.0:
            number = Number(rounded(float(slowdown)), ratio(NO_UNIT, SLOWED[each].unit))
            factor = factor + number * SLOWED[each]
    return _sum(terms, weights) if factor is ONE else _sum(terms, weights) * factor


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
