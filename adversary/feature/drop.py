"""Dropout: reports that do not arrive and read 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from adversary.feature.perturbation import Instances, Perturbation
from adversary.threat import Knob, Values


class Drop(Perturbation):
    """The features of an instance whose switch is on read 0, as where a gauge is missing from its report.

    Args:
        features: Names; null: all that an attacker reaches.
        allow_router_features: Whether others may be named.
    """

    kind: ClassVar[str] = "drop"

    def __init__(self, features: Sequence[str] | None = None, allow_router_features: bool = False) -> None:
        super().__init__(features, allow_router_features)

    def knobs(self, num_instances: int) -> list[Knob]:
        """A switch per instance."""
        return self.per_instance(num_instances, Knob("", "on", 0.0, 1.0, 0.0, is_switch=True))

    def apply(self, instances: Instances, values: Values, now_s: float) -> None:
        """Write 0, or the least that the schema knows."""
        instances[np.ix_(values > 0.5, self.columns)] = np.maximum(self._low, 0.0)
