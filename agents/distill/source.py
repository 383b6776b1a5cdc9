"""Writes what a rule computes as one Python function over whole arrays.

For 16 instances, functions that call one another for each operand take as long as NumPy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agents.distill.expression import (
    INSTANCE_COLUMNS,
    REQUEST_ENTRIES,
    Branch,
    Expression,
    Feature,
    Fleet,
    Number,
    Quantity,
    Rule,
    parts,
)
from agents.distill.texts.infix import infix

FOR_EACH = "view.instance(0) * 0.0"
"""Added to one number for all instances, it makes one for each."""


class Source:
    """The body of a function of a view (``agents.distill.evaluation.View``), and what its names stand for."""

    def __init__(self) -> None:
        self._bound: dict[str, Any] = {"maximum": np.maximum, "one": np.array(1.0), "either": _either}

    def bind(self, value: Any) -> str:
        """A name for it."""
        name = f"c{len(self._bound)}"
        self._bound[name] = value
        return name

    def definitions(self, expressions: Sequence[Expression], names: dict[Expression, str]) -> list[str]:
        """Lines that work out all that has a name in these expressions, each once.

        Args:
            expressions: What is to be computed.
            names: What was worked out already -> its name; what these lines do is added.
        """
        lines = []
        for part in (part for each in expressions for part in parts(each)):
            if part in names:
                continue
            match part:
                case Feature(name) if part.is_per_instance:
                    text = f"view.instance({INSTANCE_COLUMNS[name]})"
                case Feature(name):
                    text = f"view.request({REQUEST_ENTRIES[name]})"
                case Quantity(_, of):
                    text = self.formula(of, names)
                case Fleet(statistic, of):
                    text = f"view.fleet({statistic!r}, {names[of]})"
                case _:
                    continue
            names[part] = f"v{len(names)}"
            lines.append(f"{names[part]} = {text}")
        return lines

    def formula(self, expression: Expression, names: dict[Expression, str]) -> str:
        """Write it, with names for all that has one."""

        def number(of: Number) -> str:
            return self.bind(np.array(of.value))  # NumPy takes less time over it than over a Python number

        return infix(expression, names.__getitem__, number, "maximum({}, one)".format)

    def body(self, rule: Rule, names: dict[Expression, str], of_each: bool = False) -> list[str]:
        """Lines that return what a rule computes.

        Args:
            rule: The rule.
            names: What was worked out already -> its name.
            of_each: Return a number for each instance, also where it is the same for all.
        """
        names = dict(names)
        if isinstance(rule, Branch):
            lines = self.definitions([rule.tested], names)
            lines += ["def then():", *_indented(self.body(rule.then, names, True))]
            lines += ["def otherwise():", *_indented(self.body(rule.otherwise, names, True))]
            holds = f"{self.formula(rule.tested, names)} <= {self.bind(np.array(rule.at_most))}"
            return [*lines, f"return either({holds}, then, otherwise)"]
        lines, result = self.definitions([rule], names), f"return {self.formula(rule, names)}"
        return [*lines, f"{result} + {FOR_EACH}" if of_each and not rule.is_per_instance else result]

    def function(self, body: Sequence[str]) -> Callable[[Any], Any]:
        """The function of these lines."""
        exec("\n".join(["def evaluate(view):", *_indented(body)]), self._bound)
        evaluate: Callable[[Any], Any] = self._bound["evaluate"]
        return evaluate


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _either(holds: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    if isinstance(holds, np.bool_):  # for all instances
        return then() if holds else otherwise()
    return np.where(holds, then(), otherwise())
