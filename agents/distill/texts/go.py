"""A rule as a Go function that imports nothing (Go 1.21 or later, for ``max``)."""

from __future__ import annotations

from agents.distill.expression import Branch, Expression, Feature, Fleet, Quantity, Rule
from agents.distill.texts.infix import infix
from agents.distill.texts.signature import signature

PACKAGE = "package rule"


def go_text(rule: Rule) -> str:
    """A file with the function ``Costs``: from features of the instances and the request to a cost each."""
    needed = signature(rule)
    parameters = [f"{_camel(each.name)} []float64" for each in needed.instance]
    parameters += [f"{_camel(each.name)} float64" for each in needed.request]
    lines = [
        PACKAGE,
        "",
        "// Costs tells what it costs to send a request to each instance, the less the better.",
        "//",
        "// Of those instances that may be chosen, a slice each, in one order:",
        *(f"//   - {_camel(each.name)}: {each.row.unit}; {each.row.source}." for each in needed.instance),
        *(["//", "// Of the request:"] if needed.request else []),
        *(f"//   - {_camel(each.name)}: {each.row.unit}; {each.row.source}." for each in needed.request),
        f"func Costs({', '.join(parameters)}) []float64 {{",
        f"\tcosts := make([]float64, len({_camel(needed.instance[0].name)}))",
    ]
    if any(isinstance(each, Fleet) for each in needed.named):  # which there is none of no instances
        lines += ["\tif len(costs) == 0 {", "\t\treturn costs", "\t}"]
    for each in needed.named:
        lines += _definition(each)
    lines += ["\tfor i := range costs {", *_statements(rule, "\t\t"), "\t}", "\treturn costs", "}"]
    return "\n".join(lines) + "\n"


def _definition(named: Quantity | Fleet) -> list[str]:
    name = _camel(named.name)
    if isinstance(named, Quantity):
        if not named.is_per_instance:
            return [f"\t{name} := {_formula(named.of)}"]
        return [
            f"\t{name} := make([]float64, len(costs))",
            f"\tfor i := range {name} {{",
            f"\t\t{name}[i] = {_formula(named.of)}",
            "\t}",
        ]
    values = _camel(named.of.name)
    if named.statistic == "mean":  # divided once: the mean of equal whole numbers is that number
        return [
            f"\t{name} := 0.0",
            f"\tfor _, each := range {values} {{",
            f"\t\t{name} += each",
            "\t}",
            f"\t{name} /= float64(len({values}))",
        ]
    pick = "min" if named.statistic == "least" else "max"
    return [
        f"\t{name} := {values}[0]",
        f"\tfor _, each := range {values} {{",
        f"\t\t{name} = {pick}({name}, each)",
        "\t}",
    ]


def _statements(rule: Rule, indent: str) -> list[str]:
    if not isinstance(rule, Branch):
        return [f"{indent}costs[i] = {_formula(rule)}"]
    return [
        f"{indent}if {_formula(rule.tested)} <= {rule.at_most!r} {{",
        *_statements(rule.then, indent + "\t"),
        f"{indent}}} else {{",
        *_statements(rule.otherwise, indent + "\t"),
        f"{indent}}}",
    ]


def _formula(expression: Expression) -> str:
    return infix(expression, _name, lambda number: repr(number.value), "max({}, 1.0)".format)


def _name(expression: Expression) -> str:
    assert isinstance(expression, Feature | Quantity | Fleet)
    return f"{_camel(expression.name)}[i]" if expression.is_per_instance else _camel(expression.name)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.capitalize() for each in others)
