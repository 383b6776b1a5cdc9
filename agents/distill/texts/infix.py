"""Formulas in infix notation, which all languages share but for names, numbers and quotients."""

from __future__ import annotations

from collections.abc import Callable

from agents.distill.expression import Arithmetic, Expression, Number

Write = Callable[[Expression], str]


def infix(
    expression: Expression,
    name: Write,
    number: Callable[[Number], str],
    divisor: Callable[[str], str],
    times: str = " * ",
) -> str:
    """Write a formula, with the parentheses that keep the order in which NumPy computes it.

    Args:
        expression: The formula.
        name: Writes a feature or what has a name.
        number: Writes a number.
        divisor: Makes a divisor at least 1.
        times: Between factors.
    """

    def write(part: Expression) -> str:
        if isinstance(part, Number):
            return number(part)
        if not isinstance(part, Arithmetic):
            return name(part)
        left, right = write(part.left), write(part.right)
        if part.operator in "*/" and _is_sum(part.left):
            left = f"({left})"
        if part.operator == "/":
            return f"{left} / {divisor(right)}"
        if isinstance(part.right, Arithmetic) and not (part.operator in "+-" and not _is_sum(part.right)):
            right = f"({right})"
        return f"{left}{times if part.operator == '*' else f' {part.operator} '}{right}"

    return write(expression)


def _is_sum(expression: Expression) -> bool:
    return isinstance(expression, Arithmetic) and expression.operator in "+-"
