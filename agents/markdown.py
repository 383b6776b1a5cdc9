"""Tables in Markdown that are also easy to read as they are, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them the header, in columns of one width each."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def interval(estimate: Sequence[float], form: str) -> str:
    """A figure and its interval, ``0.41 [0.38, 0.45]``; ``-`` stands for what is no number.

    Args:
        estimate: The figure, and the bounds, which are NaN where there is one sample.
        form: Of each number, as in ``.2f``.
    """
    value, low, high = (f"{each:{form}}" for each in estimate)
    if isnan(estimate[0]):
        return "-"
    return value if isnan(estimate[1]) else f"{value} [{low}, {high}]"
