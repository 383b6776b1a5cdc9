"""Staleness: values that froze some seconds ago and are passed off as fresh."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from adversary.feature.perturbation import Instances, Perturbation
from adversary.threat import Knob, Values

SPARE = 1024
"""Looks that are forgotten at a time."""


class Delay(Perturbation):
    """The features of an instance are seen as they were some seconds ago, or as first seen if that is later.

    The age of the snapshot is left as it is: the router takes the values to be fresh. Scrapes that are late,
    and known to be, are the world's (``adversary.world``). Where several routers share one attacker, the
    past is what any of them saw.

    Args:
        max_delay_s: Most that an instance's values may be delayed.
        features: Names; null: all that an attacker reaches.
        allow_router_features: Whether others may be named.
    """

    kind: ClassVar[str] = "delay"

    def __init__(
        self, max_delay_s: float, features: Sequence[str] | None = None, allow_router_features: bool = False
    ) -> None:
        if not 0.0 < max_delay_s < float("inf"):
            raise ValueError(f"max_delay_s is {max_delay_s}, it must be a finite number of seconds above 0")
        super().__init__(features, allow_router_features)
        self.max_delay_s = float(max_delay_s)
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        self._times_s: list[float] = []
        self._past: list[Instances] = []  # the features at those times

    def knobs(self, num_instances: int) -> list[Knob]:
        """Seconds, per instance."""
        return self.per_instance(num_instances, Knob("", "s", 0.0, self.max_delay_s, 0.0))

    def apply(self, instances: Instances, values: Values, now_s: float) -> None:
        """Show each delayed instance as it was."""
        self._times_s.append(now_s)
        self._past.append(instances[:, self.columns])
        for instance in np.flatnonzero(values):
            look = bisect_right(self._times_s, now_s - values[instance]) - 1
            instances[instance, self.columns] = self._past[max(look, 0)][instance]
        num_useless = bisect_right(self._times_s, now_s - self.max_delay_s) - 1
        if num_useless >= SPARE:
            del self._times_s[:num_useless], self._past[:num_useless]
