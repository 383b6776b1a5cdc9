"""The contract of a reward term.

A term is a pure function of an ``Interval`` with a declared unit: higher is better, and its plain sum over
an episode has the meaning that its docstring states. To add one: a module here, a YAML in ``conf/reward``
and a test in ``tests/reward``.

A term may also say ``integrals_only``: true where its amount follows from the interval's three integrals
alone, by arithmetic that arrays take too. Many intervals are then one call.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from reward.interval import Interval


class Term(Protocol):
    """One thing that is good or bad about an interval."""

    unit: ClassVar[str]

    def __call__(self, interval: Interval) -> float:
        """Its amount in this interval, in ``unit``; 0 where nothing happened."""
        ...


def is_of_integrals_only(term: Term) -> bool:
    """Whether a term says so of itself."""
    return bool(getattr(term, "integrals_only", False))


def checked_attribution(attribution: str) -> str:
    """Return ``attribution`` if it is one of the two exact ones, else raise ``ValueError``."""
    if attribution not in ("as_time_passes", "at_completion"):
        raise ValueError(
            f"attribution is {attribution!r}; it must be as_time_passes (the MDP's own: what is lost in this"
            " interval) or at_completion (the whole latency when the request completes)"
        )
    return attribution
