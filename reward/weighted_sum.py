"""The reward of an interval: a weighted sum of terms, with its breakdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from reward.interval import Interval
from reward.term import Term


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term and its weight, in units of reward per unit of the term."""

    term: Term
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight that would poison the sum."""
        if not isfinite(self.weight):
            raise ValueError(f"reward: a weight is {self.weight}, it must be a finite number")


class WeightedSum:
    """``sum of weight * term(interval)``; the name of each term is the config's."""

    def __init__(self, terms: Mapping[str, Weighted]) -> None:
        if not terms:
            raise ValueError("reward: there are no terms; name at least one, e.g. reward=ttft")
        self.terms = dict(terms)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each term before its weight."""
        return {name: weighted.term.unit for name, weighted in self.terms.items()}

    def __call__(self, interval: Interval) -> tuple[float, dict[str, float]]:
        """Return the reward and each term's amount, unweighted and in its own unit."""
        amounts = {name: weighted.term(interval) for name, weighted in self.terms.items()}
        return sum(self.terms[name].weight * amount for name, amount in amounts.items()), amounts
