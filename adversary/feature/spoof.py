"""Lies: instances that claim to be idle, so as to attract requests, or busy, so as to repel them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from adversary.feature.perturbation import Pointwise, bounds_of
from adversary.threat import Knob


class Spoof(Pointwise):
    """Each feature of an instance is seen on the way to what an idle one, or a busy one, would report.

    At a position s in (0, 1] a value is seen as value * (1 - s): 1 claims to be idle. At s in [-1, 0) it is
    seen as value + |s| * (busy - value), where the value is below ``busy``: -1 claims to be that busy. Let a
    ``Budget`` say how many instances may lie at a time.

    Args:
        busy: Feature -> its value at an instance that is full, in the feature's unit.
        allow_router_features: Whether features that an attacker does not reach may be named.
    """

    kind: ClassVar[str] = "spoof"

    def __init__(self, busy: Mapping[str, float], allow_router_features: bool = False) -> None:
        self.busy = bounds_of("busy", busy)
        super().__init__(tuple(self.busy), allow_router_features)
        self._busy = np.array([self.busy[feature] for feature in self.features])

    def knob(self, feature: str) -> Knob:
        """The position."""
        return Knob("", "1", -1.0, 1.0, 0.0)

    def change(self, true: Any, values: Any) -> Any:
        """Move towards 0 or towards busy."""
        if isinstance(values, torch.Tensor):
            gap = (torch.as_tensor(self._busy, dtype=values.dtype) - true).clamp(min=0.0)
        else:
            gap = np.maximum(self._busy - true, 0.0)
        size = abs(values)
        # (size + values) / 2 is how far towards idle, (size - values) / 2 how far towards busy.
        return true + 0.5 * ((size - values) * gap - (size + values) * true)
