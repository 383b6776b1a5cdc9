"""Multiplicative noise: CCLab's perturbation of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adversary.feature.perturbation import Pointwise
from adversary.threat import Knob


class Scale(Pointwise):
    """Each feature of each instance is seen times a factor in [1 - share, 1 + share].

    Args:
        share: In (0, 1]; CCLab's x is 0.05 and 0.5.
        features: Names; null: all that an attacker reaches.
        allow_router_features: Whether others may be named.
    """

    kind: ClassVar[str] = "scale"

    def __init__(
        self, share: float, features: Sequence[str] | None = None, allow_router_features: bool = False
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(
                f"share is {share}, it must be in (0, 1]: factors lie within 1 - share and 1 + share"
            )
        super().__init__(features, allow_router_features)
        self.share = float(share)

    def knob(self, feature: str) -> Knob:
        """The factor."""
        return Knob("", "1", 1.0 - self.share, 1.0 + self.share, 1.0)

    def change(self, true: Any, values: Any) -> Any:
        """Multiply."""
        return true * values
