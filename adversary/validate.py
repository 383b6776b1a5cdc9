"""Does an attack keep to its threat model? Checked on what was recorded, by other means than the projection.

``violations`` looks at the values of a whole attack at once; ``adversary.threat`` made them step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from adversary.threat import Budget, Knob, Values

TOLERANCE = 1e-9
"""Of shares of a knob's range: rounding."""


class Violation(NamedTuple):
    """A step of an attack that its threat model does not allow."""

    step: int
    rule: str
    """``finite``, ``bounds``, ``switch``, ``slope`` or ``instances``."""
    what: str
    """The knob, or the instances."""
    value: float
    limit: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.what} breaks {self.rule}: {self.value:g}, the limit is {self.limit:g}"
        )


def violations(knobs: Sequence[Knob], budget: Budget, values: Values) -> list[Violation]:
    """Everything in ``values`` ``[num_steps, num_knobs]`` that is not allowed; empty: it keeps to the rules.

    Raises ``ValueError`` where the values do not fit the knobs.
    """
    if values.ndim != 2 or values.shape[1] != len(knobs):
        raise ValueError(
            f"the attack has values of shape {values.shape}, its threat model {len(knobs)} knobs"
        )
    table = pd.DataFrame(values)
    found: list[Violation] = []
    for column, knob in enumerate(knobs):
        series = table[column]
        width = knob.high - knob.low
        for step in np.flatnonzero(~np.isfinite(series)):
            found.append(Violation(int(step), "finite", knob.name, float(series[step]), knob.high))
        below, above = (knob.low - series) / width, (series - knob.high) / width
        for step in np.flatnonzero(below > TOLERANCE):
            found.append(Violation(int(step), "bounds", knob.name, float(series[step]), knob.low))
        for step in np.flatnonzero(above > TOLERANCE):
            found.append(Violation(int(step), "bounds", knob.name, float(series[step]), knob.high))
        if knob.is_switch:
            for step in np.flatnonzero(~series.isin([0.0, 1.0])):
                found.append(Violation(int(step), "switch", knob.name, float(series[step]), 1.0))
        if budget.max_slope is not None:
            before = pd.Series([knob.neutral] * budget.window)  # as it was before the attack
            shares = pd.concat([before, series], ignore_index=True).diff().abs() / width
            slope = shares.rolling(budget.window).mean().to_numpy()[budget.window :]
            for step in np.flatnonzero(slope > budget.max_slope + TOLERANCE):
                found.append(Violation(int(step), "slope", knob.name, float(slope[step]), budget.max_slope))
    if budget.max_instances is not None:
        disturbed = {knob.instance: np.zeros(len(values), np.bool_) for knob in knobs if knob.instance >= 0}
        for column, knob in enumerate(knobs):
            if knob.instance >= 0:
                disturbed[knob.instance] |= values[:, column] != knob.neutral
        counts = np.sum(list(disturbed.values()), axis=0) if disturbed else np.zeros(len(values))
        for step in np.flatnonzero(counts > budget.max_instances):
            found.append(
                Violation(
                    int(step), "instances", "disturbed at a time", float(counts[step]), budget.max_instances
                )
            )
    return found


def require_valid(knobs: Sequence[Knob], budget: Budget, values: Values) -> None:
    """Raise ``ValueError`` naming the first violation and their number, if there is any."""
    found = violations(knobs, budget, values)
    if found:
        raise ValueError(f"the attack breaks its threat model {len(found)} times; first, {found[0]}")
