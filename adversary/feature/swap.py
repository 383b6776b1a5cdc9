"""Swaps: reports that are taken for another instance's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from adversary.feature.perturbation import Instances, Perturbation
from adversary.threat import Knob, Values


class Swap(Perturbation):
    """Each instance whose switch is on is seen with the features of the one before it that is on, cyclically.

    Args:
        features: Names; null: all that an attacker reaches.
        allow_router_features: Whether others may be named.
    """

    kind: ClassVar[str] = "swap"
    least_instances: ClassVar[int] = 2

    def __init__(self, features: Sequence[str] | None = None, allow_router_features: bool = False) -> None:
        super().__init__(features, allow_router_features)

    def knobs(self, num_instances: int) -> list[Knob]:
        """A switch per instance."""
        return self.per_instance(num_instances, Knob("", "on", 0.0, 1.0, 0.0, is_switch=True))

    def apply(self, instances: Instances, values: Values, now_s: float) -> None:
        """Pass the features on to the next."""
        places = np.ix_(values > 0.5, self.columns)
        instances[places] = np.roll(instances[places], 1, axis=0)
