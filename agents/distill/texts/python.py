"""A rule as a Python function that needs nothing but Python."""

from __future__ import annotations

from agents.distill.expression import Branch, Expression, Feature, Fleet, Quantity, Rule
from agents.distill.texts.infix import infix
from agents.distill.texts.signature import signature

_STATISTICS = {"least": "min({})", "most": "max({})", "mean": "sum({0}) / len({0})"}


def python_text(rule: Rule) -> str:
    """The function ``costs``: from features of the instances and the request to a cost each."""
    needed = signature(rule)
    names = [each.name for each in (*needed.instance, *needed.request)]
    of_instances = [f"        {each.name}: {each.row.unit}; {each.row.source}." for each in needed.instance]
    of_request = [f"        {each.name}: {each.row.unit}; {each.row.source}." for each in needed.request]
    lines = [
        f"def costs({', '.join(names)}):",
        '    """What it costs to send a request to each instance, the less the better.',
        "",
        "    Of those instances that may be chosen, a list each, in one order:",
        *of_instances,
        *(["", "    Of the request:", *of_request] if of_request else []),
        '    """',
        f"    instances = range(len({names[0]}))",
    ]
    if any(isinstance(each, Fleet) for each in needed.named):  # which there is none of no instances
        lines += ["    if not instances:", "        return []"]
    for each in needed.named:
        if isinstance(each, Fleet):
            lines.append(f"    {each.name} = {_STATISTICS[each.statistic].format(each.of.name)}")
        elif each.is_per_instance:
            lines.append(f"    {each.name} = [{_formula(each.of)} for i in instances]")
        else:
            lines.append(f"    {each.name} = {_formula(each.of)}")
    lines += ["    costs = []", "    for i in instances:", *_statements(rule, "        "), "    return costs"]
    return "\n".join(lines) + "\n"


def _statements(rule: Rule, indent: str) -> list[str]:
    if not isinstance(rule, Branch):
        return [f"{indent}costs.append({_formula(rule)})"]
    return [
        f"{indent}if {_formula(rule.tested)} <= {rule.at_most!r}:",
        *_statements(rule.then, indent + "    "),
        f"{indent}else:",
        *_statements(rule.otherwise, indent + "    "),
    ]


def _formula(expression: Expression) -> str:
    return infix(expression, _name, lambda number: repr(number.value), "max({}, 1.0)".format)


def _name(expression: Expression) -> str:
    assert isinstance(expression, Feature | Quantity | Fleet)
    return f"{expression.name}[i]" if expression.is_per_instance else expression.name
