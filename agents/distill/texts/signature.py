"""What a rule's function is given and what it works out first, in whatever language."""

from __future__ import annotations

from typing import NamedTuple

from agents.distill.expression import INSTANCE_COLUMNS, REQUEST_ENTRIES, Feature, Fleet, Quantity, Rule, parts


class Signature(NamedTuple):
    """The names that occur in a rule."""

    instance: list[Feature]
    """Features of the instances, in the table's order."""
    request: list[Feature]
    """Features of the request, likewise."""
    named: list[Quantity | Fleet]
    """What has a name of its own, each after those that it is made of."""


def signature(rule: Rule) -> Signature:
    """Read it off a rule."""
    found = parts(rule)
    features = [part for part in found if isinstance(part, Feature)]
    return Signature(
        sorted(
            (each for each in features if each.is_per_instance), key=lambda each: INSTANCE_COLUMNS[each.name]
        ),
        sorted(
            (each for each in features if not each.is_per_instance),
            key=lambda each: REQUEST_ENTRIES[each.name],
        ),
        [part for part in found if isinstance(part, Quantity | Fleet)],
    )
