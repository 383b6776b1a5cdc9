"""The contract of everything that changes what a router sees of its instances.

A perturbation names the features that it changes and the knobs that say how much; where all its knobs are
neutral it changes nothing. ``adversary.feature.deception`` gives it values within bounds and budget.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adversary.threat import Knob, Values
from envs.observation import INSTANCE_HIGH, INSTANCE_LOW, INSTANCE_NAMES, REACHABLE

Instances = NDArray[np.float32]
"""Raw features of the instances, ``[num_instances, num_instance_features]``."""


def columns_of(features: Sequence[str], allow_router_features: bool) -> NDArray[np.intp]:
    """Columns of ``observation["instances"]`` of the features with these names.

    Raises ``ValueError`` for an unknown name, one given twice, and one that is out of an attacker's reach
    unless ``allow_router_features``.
    """
    if isinstance(features, str) or not features:
        raise ValueError(f"features is {features!r}: name at least one in a list, e.g. {REACHABLE[0]}")
    for place, name in enumerate(features):
        if name not in INSTANCE_NAMES:
            near = get_close_matches(str(name), INSTANCE_NAMES, n=3, cutoff=0.5) or INSTANCE_NAMES
            raise ValueError(f"instances have no feature {name!r}; the nearest are {', '.join(near)}")
        if name in features[:place]:
            raise ValueError(f"feature {name} is given twice: leave one of them out")
        if name not in REACHABLE and not allow_router_features:
            raise ValueError(
                f"feature {name} is measured or known by the router itself, out of an attacker's reach:"
                f" choose among {', '.join(REACHABLE)}, or say allow_router_features: true"
            )
    return np.array([INSTANCE_NAMES.index(name) for name in features])


class Perturbation(ABC):
    """Changes some features of the instances as its knobs say.

    Args:
        features: Names of instance features; null: all that an attacker reaches
            (``envs.observation.REACHABLE``).
        allow_router_features: Whether the others may be named too.
    """

    kind: ClassVar[str]
    """Its name in those of its knobs."""
    least_instances: ClassVar[int] = 1
    """Instances that must be disturbed at a time for anything to change."""

    def __init__(self, features: Sequence[str] | None, allow_router_features: bool) -> None:
        self.features = REACHABLE if features is None else tuple(features)
        self.columns = columns_of(self.features, allow_router_features)
        self._low, self._high = INSTANCE_LOW[self.columns], INSTANCE_HIGH[self.columns]

    @abstractmethod
    def knobs(self, num_instances: int) -> list[Knob]:
        """Its knobs, in a fleet of so many."""

    def reset(self) -> None:  # noqa: B027 (most remember nothing)
        """Begin an episode."""

    @abstractmethod
    def apply(self, instances: Instances, values: Values, now_s: float) -> None:
        """Change ``instances`` in place as its knobs' ``values`` ``[num_knobs]`` say at instant ``now_s``.

        What it writes is within the schema's bounds. Instances whose knobs are neutral keep their bytes.
        """

    def per_instance(self, num_instances: int, knob: Knob) -> list[Knob]:
        """A knob like this one for each instance: ``kind[0]``, ``kind[1]``, ..."""
        return [
            knob._replace(name=f"{self.kind}[{instance}]", instance=instance)
            for instance in range(num_instances)
        ]

    def write(self, instances: Instances, seen: NDArray[np.floating[Any]]) -> None:
        """Put ``seen`` ``[num_instances, num_features]`` into its columns, cut to the schema's bounds."""
        instances[:, self.columns] = np.minimum(np.maximum(seen, self._low), self._high)


class Pointwise(Perturbation):
    """One knob per instance and feature, which is changed by a formula of its value and the knob's.

    The formula holds for arrays and tensors alike, so that an attacker can follow its gradient.
    """

    @abstractmethod
    def knob(self, feature: str) -> Knob:
        """The knob of a feature; its name and instance are filled in."""

    @abstractmethod
    def change(self, true: Any, values: Any) -> Any:
        """What is seen of the true values, ``[..., num_features]``; not yet cut to the schema's bounds."""

    def knobs(self, num_instances: int) -> list[Knob]:
        """``kind.feature[instance]``, instance by instance."""
        kinds = [(feature, self.knob(feature)) for feature in self.features]
        return [
            knob._replace(name=f"{self.kind}.{feature}[{instance}]", instance=instance)
            for instance in range(num_instances)
            for feature, knob in kinds
        ]

    def apply(self, instances: Instances, values: Values, now_s: float) -> None:
        """Change each feature by the formula."""
        true = instances[:, self.columns]
        self.write(instances, self.change(true, values.reshape(true.shape)))


def bounds_of(what: str, bounds: Any) -> dict[str, float]:
    """Check a mapping from features to their bounds; each must be a positive number."""
    if not bounds:
        raise ValueError(
            f"{what} is empty: give it a number for at least one feature, e.g. {REACHABLE[0]}: 8"
        )
    for feature, bound in bounds.items():
        if not 0.0 < bound < float("inf"):
            raise ValueError(f"{what} of {feature} is {bound}, it must be a finite number above 0")
    return {str(feature): float(bound) for feature, bound in bounds.items()}
