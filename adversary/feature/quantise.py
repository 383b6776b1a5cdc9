"""Quantisation: values rounded to coarse steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from adversary.feature.perturbation import Instances, Perturbation, bounds_of
from adversary.threat import Knob, Values

FINEST = 1e-9
"""A smaller share of the coarsest step is no step at all."""


class Quantise(Perturbation):
    """The features of all instances are seen rounded to a multiple of one step.

    Args:
        most: Feature -> the coarsest step, in the feature's unit; the one knob is the share of it to use.
        allow_router_features: Whether features that an attacker does not reach may be named.
    """

    kind: ClassVar[str] = "quantise"

    def __init__(self, most: Mapping[str, float], allow_router_features: bool = False) -> None:
        self.most = bounds_of("most", most)
        super().__init__(tuple(self.most), allow_router_features)
        self._most = np.array([self.most[feature] for feature in self.features])

    def knobs(self, num_instances: int) -> list[Knob]:
        """The step, as a share of the coarsest."""
        return [Knob(self.kind, "1", 0.0, 1.0, 0.0)]

    def apply(self, instances: Instances, values: Values, now_s: float) -> None:
        """Round."""
        if values[0] > FINEST:
            step = values[0] * self._most
            self.write(instances, np.rint(instances[:, self.columns] / step) * step)
