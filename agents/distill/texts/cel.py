"""A rule as an expression of CEL (Common Expression Language), for gateways that score by one."""

from __future__ import annotations

from agents.distill.expression import Branch, Expression, Feature, Fleet, Quantity, Rule
from agents.distill.texts.infix import infix
from agents.distill.texts.signature import signature


def cel_text(rule: Rule) -> str:
    """The cost of one instance; comments say which variables it needs.

    CEL cannot sum over the instances within a formula: what is of the whole fleet is a variable, too.
    """
    needed = signature(rule)
    fleet = [each for each in needed.named if isinstance(each, Fleet)]
    words = {"least": "least", "mean": "mean", "most": "greatest"}
    return "\n".join(
        [
            "// What it costs to send the request to an instance, the less the better. Variables (double):",
            *(f"// {each.name}: {each.row.unit}; {each.row.source}" for each in needed.instance),
            *(
                f"// {each.name} of the request: {each.row.unit}; {each.row.source}"
                for each in needed.request
            ),
            *(
                f"// {each.name}: {words[each.statistic]}, over the instances that may be chosen, of"
                f" {cel_formula(each.of)}"
                for each in fleet
            ),
            _expression(rule),
            "",
        ]
    )


def cel_formula(expression: Expression) -> str:
    """A formula with what has a name written out, but for that of the whole fleet."""
    return infix(expression, _name, lambda number: repr(number.value), "({0} < 1.0 ? 1.0 : {0})".format)


def _expression(rule: Rule) -> str:
    if not isinstance(rule, Branch):
        return cel_formula(rule)
    then, otherwise = _expression(rule.then), _expression(rule.otherwise)
    return f"({cel_formula(rule.tested)} <= {rule.at_most!r} ? {then} : {otherwise})"


def _name(expression: Expression) -> str:
    if isinstance(expression, Quantity):
        return f"({cel_formula(expression.of)})"
    assert isinstance(expression, Feature | Fleet)
    return expression.name
