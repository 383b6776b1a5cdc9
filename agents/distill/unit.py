"""Units of measurement: products of base units, such as tokens/s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Unit: TypeAlias = tuple[tuple[str, int], ...]
"""Base units and their powers, by name, none 0: that of tokens/s is ``(("s", -1), ("tokens", 1))``."""

NO_UNIT: Unit = ()
_WITHOUT = ("1", "0 or 1")


def unit(text: str) -> Unit:
    """Read a unit as the feature table writes it: ``tokens/s``, ``requests``, ``1``."""
    top, *bottom = text.split("/")
    powers = {} if top in _WITHOUT else {top: 1}
    for each in bottom:
        powers[each] = powers.get(each, 0) - 1
    return _unit(powers)


def product(one: Unit, other: Unit) -> Unit:
    """Unit of a product."""
    powers = dict(one)
    for name, power in other:
        powers[name] = powers.get(name, 0) + power
    return _unit(powers)


def ratio(one: Unit, other: Unit) -> Unit:
    """Unit of a quotient."""
    return product(one, tuple((name, -power) for name, power in other))


def text_of(unit: Unit) -> str:
    """Write a unit, ``1`` where it has none: ``s/(requests·tokens)``."""
    top = "·".join(_power(name, power) for name, power in unit if power > 0)
    bottom = [_power(name, -power) for name, power in unit if power < 0]
    if not bottom:
        return top or "1"
    return f"{top or '1'}/{bottom[0] if len(bottom) == 1 else '(' + '·'.join(bottom) + ')'}"


def _power(name: str, power: int) -> str:
    return name if power == 1 else f"{name}^{power}"


def _unit(powers: Mapping[str, int]) -> Unit:
    return tuple(sorted((name, power) for name, power in powers.items() if power))
