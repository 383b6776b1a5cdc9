"""Is what a victim saw allowed? Checked on pairs of true and seen observations, by other means than applying.

``adversary.validate`` checks the values of the knobs; ``mistakes`` looks at what came of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adversary.feature.drop import Drop
from adversary.feature.quantise import Quantise
from adversary.feature.scale import Scale
from adversary.feature.shift import Shift
from adversary.feature.spoof import Spoof
from adversary.feature.swap import Swap
from adversary.feature.threat import FeatureThreat
from adversary.validate import Violation
from envs.observation import INSTANCE_FEATURES, INSTANCE_NAMES, Observation

ROUNDING = 1e-6
"""Of float32, relative."""

Array = NDArray[np.float64]


def mistakes(
    threat: FeatureThreat, true: Sequence[Observation], seen: Sequence[Observation]
) -> list[Violation]:
    """Everything in what was seen that the threat model does not allow; empty: all is well.

    Rules: ``untouched`` (request, mask, features that are not named, rows of masked instances and of none are
    the same to the byte), ``finite``, ``schema`` (within the feature's bounds), ``instances`` (no more differ
    than may be disturbed at a time) and, where there is but one perturbation, its own: ``scale``, ``shift``,
    ``spoof``, ``drop``, ``swap``.
    """
    if len(true) != len(seen):
        raise ValueError(f"there are {len(true)} true observations and {len(seen)} seen ones: give pairs")
    if not true:
        return []
    found: list[Violation] = []

    def note(bad: NDArray[np.bool_], rule: str, value: Array, limit: Any) -> None:
        """Note where ``bad`` ``[num_steps, num_instances, num_features]`` holds."""
        limits = np.broadcast_to(limit, bad.shape)
        for step, instance, column in np.argwhere(bad):
            place = (step, instance, column)
            what = f"{INSTANCE_NAMES[column]} of instance {instance}"
            found.append(Violation(int(step), rule, what, float(value[place]), float(limits[place])))

    for name in ("request", "mask"):
        for step, (one, other) in enumerate(zip(true, seen, strict=True)):
            if one[name].tobytes() != other[name].tobytes():
                found.append(Violation(step, "untouched", name, float("nan"), float("nan")))
    is_so = np.array([look["instances"] for look in true], np.float64)
    shown = np.array([look["instances"] for look in seen], np.float64)
    valid = np.array([look["mask"] for look in true]) != 0
    touchable = np.zeros(len(INSTANCE_NAMES), np.bool_)
    for perturbation in threat.perturbations:
        touchable |= np.isin(INSTANCE_NAMES, perturbation.features)
    differs = ~((is_so == shown) | (np.isnan(is_so) & np.isnan(shown)))
    note(differs & ~(touchable & valid[:, :, None]), "untouched", shown, is_so)
    note(~np.isfinite(shown), "finite", shown, np.inf)
    for column, feature in enumerate(INSTANCE_FEATURES):
        out = np.zeros_like(differs)
        values = shown[:, :, column]
        out[:, :, column] = (values < feature.low) | (values > feature.high)
        note(out & differs, "schema", shown, np.array([each.high for each in INSTANCE_FEATURES]))

    most = threat.budget.max_instances
    if most is not None and not any(isinstance(each, Quantise) for each in threat.perturbations):
        counts = differs.any(axis=2).sum(axis=1)
        for place in np.flatnonzero(counts > most):
            found.append(Violation(int(place), "instances", "seen otherwise", float(counts[place]), most))

    if len(threat.perturbations) == 1:
        [perturbation] = threat.perturbations
        low, high = _allowed(perturbation, threat.epsilon, is_so, valid)
        slack = ROUNDING * (1.0 + np.maximum(np.abs(is_so), np.abs(shown)))
        note(differs & (shown < low - slack), perturbation.kind, shown, low)
        note(differs & (shown > high + slack), perturbation.kind, shown, high)
    return found


def _allowed(perturbation: Any, epsilon: float, true: Array, valid: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Least and most that may be seen, ``[num_steps, num_instances, num_features]`` each."""
    low, high = np.full_like(true, -np.inf), np.full_like(true, np.inf)
    for name in perturbation.features:
        column = INSTANCE_NAMES.index(name)
        values = true[:, :, column]
        if isinstance(perturbation, Scale):
            share = epsilon * perturbation.share
            low[:, :, column], high[:, :, column] = values * (1.0 - share), values * (1.0 + share)
        elif isinstance(perturbation, Shift):
            bound = epsilon * perturbation.most[name]
            low[:, :, column], high[:, :, column] = values - bound, values + bound
        elif isinstance(perturbation, Spoof):
            busy = np.maximum(values, perturbation.busy[name])
            low[:, :, column] = values * (1.0 - epsilon)
            high[:, :, column] = values + epsilon * (busy - values)
        elif isinstance(perturbation, Drop):
            low[:, :, column] = high[:, :, column] = 0.0
        elif isinstance(perturbation, Swap):  # what some instance has
            low[:, :, column] = values.min(axis=1, keepdims=True)
            high[:, :, column] = values.max(axis=1, keepdims=True)
    return low, high
