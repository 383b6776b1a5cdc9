"""Additive noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from adversary.feature.perturbation import Pointwise, bounds_of
from adversary.threat import Knob
from envs.observation import INSTANCE_FEATURES


class Shift(Pointwise):
    """Each feature of each instance is seen with something added, in [-most, most] of that feature.

    Args:
        most: Feature -> the bound, in the feature's unit.
        allow_router_features: Whether features that an attacker does not reach may be named.
    """

    kind: ClassVar[str] = "shift"

    def __init__(self, most: Mapping[str, float], allow_router_features: bool = False) -> None:
        self.most = bounds_of("most", most)
        super().__init__(tuple(self.most), allow_router_features)
        self._unit = {feature.name: feature.unit for feature in INSTANCE_FEATURES}

    def knob(self, feature: str) -> Knob:
        """What is added."""
        return Knob("", self._unit[feature], -self.most[feature], self.most[feature], 0.0)

    def change(self, true: Any, values: Any) -> Any:
        """Add."""
        return true + values
