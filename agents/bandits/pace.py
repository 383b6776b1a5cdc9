"""How slow each instance is beside what its profile says, from what became of the requests sent there."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.hyperparameters import check_positive


class Pace:
    """Per instance, the fading mean of ``log(actual / expected)``: of a GPU throttled to half about log 2.

    It is the fleet's past and no model: forgotten where an episode begins, and never exported.

    Args:
        memory: Requests to an instance that are remembered, about.
        prior: Requests at the expected time that are taken for granted: one slow answer is no slow GPU.
    """

    def __init__(self, memory: float = 30.0, prior: float = 5.0) -> None:
        check_positive(memory=memory, prior=prior)
        self._keep, self._prior = exp(-1.0 / memory), prior
        self.reset()

    def reset(self) -> None:
        """Take every instance to be as its profile says."""
        self._means = np.zeros((0, 2))  # instance -> fading sum of the logarithms, and of their number

    def update(self, instance: int, expected_s: float, actual_s: float, weight: float = 1.0) -> None:
        """Learn how long a request took there; ``weight``: how much it tells, as a share of a request."""
        missing = instance + 1 - len(self._means)
        if missing > 0:
            self._means = np.concatenate([self._means, np.zeros((missing, 2))])
        self._means[instance] *= self._keep**weight
        self._means[instance] += weight * log(actual_s / expected_s), weight

    def of(self, instances: NDArray[np.intp]) -> NDArray[np.float64]:
        """Factor by which each takes longer, ``[num_instances]``."""
        factors = np.ones(len(instances))
        known = instances < len(self._means)
        total, number = self._means[instances[known]].T
        factors[known] = np.exp(total / (number + self._prior))
        return factors

    def state(self) -> dict[str, Any]:
        """Everything, in arrays."""
        return {"means": self._means.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self._means = np.array(state["means"], np.float64).reshape(-1, 2)
