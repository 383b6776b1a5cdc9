"""Checks of numbers that come from configuration files."""

from __future__ import annotations

from collections.abc import Sequence


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` for the first that is not a whole number from 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is {count}, it must be a whole number from 1")


def check_range(low: float, high: float, **values: float) -> None:
    """Raise ``ValueError`` for the first that is not in [low, high]."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name} is {value}, it must be a number from {low} to {high}")


def check_positive(**values: float) -> None:
    """Raise ``ValueError`` for the first that is not a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}, it must be a finite number above 0")


def check_not_negative(**values: float) -> None:
    """Raise ``ValueError`` for the first that is not a finite number from 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}, it must be a finite number from 0")


def check_widths(**widths: Sequence[int]) -> None:
    """Raise ``ValueError`` for the first that is not a non-empty list of whole numbers from 1."""
    for name, values in widths.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"{name} is {values}, it must be a list of widths such as [64, 64]")
        check_counts(**{f"{name}[{index}]": width for index, width in enumerate(values)})
