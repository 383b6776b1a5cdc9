"""A rule for people: one formula with units."""

from __future__ import annotations

from agents.distill.expression import (
    Arithmetic,
    Branch,
    Expression,
    Feature,
    Fleet,
    Number,
    Quantity,
    Rule,
    leaves,
    parts,
)
from agents.distill.texts.infix import infix
from agents.distill.texts.signature import signature
from agents.distill.unit import text_of


def formula_text(rule: Rule) -> str:
    """The cost in its unit, what it is made of below."""
    in_units = {text_of(leaf.unit) for leaf in leaves(rule)}  # instances are compared within one context
    lines = [f"cost [{' or '.join(sorted(in_units))}] =", *_branches(rule, "    ")]
    named = [each for each in signature(rule).named if isinstance(each, Quantity)]
    if named:
        lines += ["where", *(f"    {each.name} = {_formula(each.of)}" for each in named)]
    if any(isinstance(part, Arithmetic) and part.operator == "/" for part in parts(rule)):
        lines.append("What divides counts as at least 1, in its unit.")
    return "\n".join(lines) + "\n"


def _branches(rule: Rule, indent: str) -> list[str]:
    if not isinstance(rule, Branch):
        return [indent + _formula(rule)]
    at_most = _number(Number(rule.at_most, rule.tested.unit))
    return [
        f"{indent}if {_formula(rule.tested)} <= {at_most}:",
        *_branches(rule.then, indent + "    "),
        f"{indent}else:",
        *_branches(rule.otherwise, indent + "    "),
    ]


def _formula(expression: Expression) -> str:
    return infix(expression, _name, _number, _divisor, " · ")


def _divisor(text: str) -> str:
    return f"({text})" if " " in text else text


def _number(number: Number) -> str:
    unit = text_of(number.unit)
    return f"{number.value:.6g}" if unit == "1" else f"{number.value:.6g} {unit}"


def _name(expression: Expression) -> str:
    assert isinstance(expression, Feature | Quantity | Fleet)
    return expression.name
