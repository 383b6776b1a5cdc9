"""A rule as a formula: what it costs to send a request to an instance, in features of the table.

    own_s = Feature("num_uncached_tokens") / Feature("prefill_tokens_per_s")
    Branch(Feature("turn"), 1.0, own_s, own_s + Number(0.3, unit("s")) * Feature("frac_kv_cache_usage"))

Arithmetic alone, and comparisons: so a formula means the same in NumPy, Python, Go and CEL. Units are checked
where a formula is made. What divides counts as at least 1: a router that does not know its instances' speed
takes it for 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from agents.distill import unit as units
from agents.distill.unit import NO_UNIT, Unit
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES
from envs.observation import Feature as Row

INSTANCE_COLUMNS = {row.name: column for column, row in enumerate(INSTANCE_FEATURES)}
REQUEST_ENTRIES = {row.name: entry for entry, row in enumerate(REQUEST_FEATURES) if row.transform != "key"}
_ROWS = {row.name: row for row in (*INSTANCE_FEATURES, *REQUEST_FEATURES)}

Statistic: TypeAlias = Literal["least", "mean", "most"]
Operator: TypeAlias = Literal["+", "-", "*", "/"]


class Expression:
    """A number per instance, or one for all of them."""

    @property
    def unit(self) -> Unit:
        """Its unit."""
        raise NotImplementedError

    @property
    def operands(self) -> tuple[Expression, ...]:
        """What it is computed from."""
        return ()

    @property
    def is_per_instance(self) -> bool:
        """Whether it may differ between the instances."""
        return any(operand.is_per_instance for operand in self.operands)

    def __add__(self, other: Expression) -> Expression:
        return Arithmetic("+", self, other)

    def __sub__(self, other: Expression) -> Expression:
        return Arithmetic("-", self, other)

    def __mul__(self, other: Expression) -> Expression:
        return Arithmetic("*", self, other)

    def __truediv__(self, other: Expression) -> Expression:
        return Arithmetic("/", self, other)


@dataclass(frozen=True)
class Number(Expression):
    """A constant."""

    value: float
    of: Unit = NO_UNIT

    @property
    def unit(self) -> Unit:
        """Its unit."""
        return self.of


@dataclass(frozen=True)
class Feature(Expression):
    """A feature of the instance or of the request, by its name in the table."""

    name: str

    def __post_init__(self) -> None:
        """Refuse what is no feature, or no quantity."""
        if self.name not in INSTANCE_COLUMNS and self.name not in REQUEST_ENTRIES:
            raise ValueError(f"{self.name!r} is no feature that can be computed with; see envs.observation")

    @property
    def row(self) -> Row:
        """Its row of the table."""
        return _ROWS[self.name]

    @property
    def unit(self) -> Unit:
        """Its unit."""
        return units.unit(self.row.unit)

    @property
    def is_per_instance(self) -> bool:
        """Whether it is of the instance, not of the request."""
        return self.name in INSTANCE_COLUMNS


@dataclass(frozen=True)
class Quantity(Expression):
    """A formula with a name of its own, which ends in its unit as those of features do."""

    name: str
    of: Expression

    @property
    def unit(self) -> Unit:
        """Its unit."""
        return self.of.unit

    @property
    def operands(self) -> tuple[Expression, ...]:
        """What it names."""
        return (self.of,)


@dataclass(frozen=True)
class Fleet(Expression):
    """Least, mean or most of something over the instances that may be chosen."""

    statistic: Statistic
    of: Feature | Quantity

    def __post_init__(self) -> None:
        """Refuse what is the same for all of them."""
        if not self.of.is_per_instance:
            raise ValueError(f"{self.name}: {self.of.name} is the same for all instances")

    @property
    def name(self) -> str:
        """Its name in texts."""
        return f"{self.statistic}_{self.of.name}"

    @property
    def unit(self) -> Unit:
        """Its unit."""
        return self.of.unit

    @property
    def operands(self) -> tuple[Expression, ...]:
        """What it is of."""
        return (self.of,)

    @property
    def is_per_instance(self) -> bool:
        """It is one number."""
        return False


@dataclass(frozen=True)
class Arithmetic(Expression):
    """A sum, difference, product or quotient."""

    operator: Operator
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        """Refuse sums of different units."""
        if self.operator in "+-" and self.left.unit != self.right.unit:
            left, right = units.text_of(self.left.unit), units.text_of(self.right.unit)
            raise ValueError(f"{left} {self.operator} {right}: units differ in {self}")

    @cached_property
    def unit(self) -> Unit:
        """Its unit."""
        if self.operator in "+-":
            return self.left.unit
        combined = units.product if self.operator == "*" else units.ratio
        return combined(self.left.unit, self.right.unit)

    @property
    def operands(self) -> tuple[Expression, ...]:
        """Both sides."""
        return (self.left, self.right)


@dataclass(frozen=True)
class Branch:
    """One formula where ``tested`` is at most a threshold, else another."""

    tested: Expression
    at_most: float
    then: Rule
    otherwise: Rule


Rule: TypeAlias = Branch | Expression
"""The cost of an instance, the less the better."""


def leaves(rule: Rule) -> list[Expression]:
    """The formulas at the ends of its branches, from left to right."""
    if isinstance(rule, Branch):
        return [*leaves(rule.then), *leaves(rule.otherwise)]
    return [rule]


def tests(rule: Rule) -> list[Expression]:
    """What its branches test, from top and left."""
    if isinstance(rule, Branch):
        return [rule.tested, *tests(rule.then), *tests(rule.otherwise)]
    return []


def sees_instances(rule: Rule) -> bool:
    """Whether its cost may differ between the instances."""
    return any(each.is_per_instance for each in (*tests(rule), *leaves(rule)))


def parts(rule: Rule) -> list[Expression]:
    """All that occurs in it, each once, operands before what is made of them."""
    found: dict[Expression, None] = {}

    def visit(expression: Expression) -> None:
        if expression not in found:
            for operand in expression.operands:
                visit(operand)
            found[expression] = None

    for expression in (*tests(rule), *leaves(rule)):
        visit(expression)
    return list(found)


def num_nodes(rule: Rule) -> int:
    """How long it is: numbers, features, names, operations and branches, as written.

    What has a name is counted where it is defined and by one wherever it is used. A branch, which compares a
    feature or something named with a threshold, is one node, as in any decision tree.
    """
    named = [part for part in parts(rule) if isinstance(part, Quantity)]
    return sum(_written(quantity.of) for quantity in named) + _branched(rule)


def _branched(rule: Rule) -> int:
    if not isinstance(rule, Branch):
        return _written(rule)
    return _written(rule.tested) + _branched(rule.then) + _branched(rule.otherwise)


def _written(expression: Expression) -> int:
    if isinstance(expression, Arithmetic):
        return 1 + sum(_written(operand) for operand in expression.operands)
    return 1
