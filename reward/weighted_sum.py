"""The reward of an interval: a weighted sum of terms, with its breakdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.interval import Interval
from reward.term import Term, is_of_integrals_only


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
        return self._weighed(amounts), amounts

    def of_many(
        self, integrals: Interval, which: NDArray[np.bool_], interval: Callable[[int], Interval]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """The same of many intervals, bit for bit what each of them gives by itself.

        Args:
            integrals: The three integrals of all of them, each ``[num]``.
            which: Those that count, ``[num]``; reward and amounts of the others are 0.
            interval: Gives one of them whole; asked only for those that count, and only where a term is not
                of the integrals alone.

        Returns:
            The rewards and each term's amounts, ``[num]``.
        """
        amounts = {}
        numbers = np.flatnonzero(which).tolist()
        whole: dict[int, Interval] = {}
        for name, weighted in self.terms.items():
            if is_of_integrals_only(weighted.term):
                every: Any = weighted.term(integrals)
                amounts[name] = np.where(which, every, 0.0)
                continue
            whole = whole or {number: interval(number) for number in numbers}
            amounts[name] = np.zeros(len(which))
            amounts[name][numbers] = [weighted.term(whole[number]) for number in numbers]
        return self._weighed(amounts), amounts

    def _weighed(self, amounts: Mapping[str, Any]) -> Any:
        """The sum; not by ``sum``, which from Python 3.12 on adds floats otherwise than arrays."""
        total: Any = 0.0
        for name, amount in amounts.items():
            total = total + self.terms[name].weight * amount
        return total
