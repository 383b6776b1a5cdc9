"""Figures in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
FIXED = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""


def value(estimate: Any, bound: str = "value") -> float | None:
    """The figure (or a bound) of ``{"value", "low", "high"}``; None where there is none."""
    held = estimate.get(bound) if isinstance(estimate, Mapping) else estimate
    return float(held) if isinstance(held, int | float) and isfinite(held) else None


def seconds(number: float | None) -> str:
    """A duration, in three digits at most."""
    if number is None:
        return NOTHING
    if abs(number) < 0.1:
        return f"{1000 * number:.0f}{FIXED}ms"
    digits = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:.{digits}f}{FIXED}s"


def plain(number: float | None) -> str:
    """A number, in three digits at most."""
    if number is None:
        return NOTHING
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def percent(number: float | None) -> str:
    """A share."""
    return NOTHING if number is None else f"{100 * number:.0f}{FIXED}%"


def change(number: float | None) -> str:
    """By how much something grew; from ten times on as a factor."""
    if number is None:
        return NOTHING
    if number >= 9.0:
        return f"{TIMES}{1 + number:.0f}"
    if abs(number) < 0.0005:
        return f"0{FIXED}%"
    digits = 1 if abs(number) < 0.0995 else 0
    return f"{100 * number:+.{digits}f}{FIXED}%".replace("-", MINUS)


def interval(estimate: Any, form: Callable[[float | None], str] = plain) -> str:
    """A figure and its interval: ``0.41 s [0.38 s, 0.45 s]``."""
    low, high = value(estimate, "low"), value(estimate, "high")
    text = form(value(estimate))
    return text if low is None or high is None or text == NOTHING else f"{text} [{form(low)}, {form(high)}]"


def is_clear(estimate: Any) -> bool:
    """Whether the interval leaves out zero."""
    low, high = value(estimate, "low"), value(estimate, "high")
    return low is not None and high is not None and (low > 0.0 or high < 0.0)


def listed(names: list[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
