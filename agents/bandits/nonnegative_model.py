"""Regression whose weights are not negative: of causes that can only add to a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

from agents.hyperparameters import check_positive

SOLVE_EVERY = 10
"""Samples between two solutions, which cost more than all else about a decision."""


class NonnegativeModel:
    """``time = weights · terms``, ``weights >= 0``, near a prior, learned sample by sample.

    Minimises the sum of squared errors, each relative to ``time + grain_s``, plus ``ridge`` times the squared
    distance from the prior. A sample seen n samples ago counts ``forgetting``^n; the prior is not forgotten.

    Args:
        prior: Weights before the first sample, ``[num_terms]``.
        ridge: Weight of the prior.
        forgetting: In (0, 1]; 1 remembers all.
        grain_s: Times far below this one count alike.
    """

    def __init__(self, prior: Sequence[float], ridge: float, forgetting: float, grain_s: float) -> None:
        check_positive(ridge=ridge, grain_s=grain_s)
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting is {forgetting}, it must be in (0, 1]")
        self.prior = np.array(prior, np.float64)
        if self.prior.ndim != 1 or not len(self.prior) or not (self.prior >= 0).all():
            raise ValueError(f"prior is {list(prior)}, it must be a list of numbers from 0")
        self.ridge, self.forgetting, self.grain_s = ridge, forgetting, grain_s
        self.precision = np.zeros((len(self.prior), len(self.prior)))
        self.moment = np.zeros(len(self.prior))
        self.num_updates = 0
        self.weights = self.prior.copy()
        """The best weights as of the last solution, ``[num_terms]``."""

    def update(self, terms: NDArray[np.float64], time_s: float) -> None:
        """Learn one sample: ``terms`` ``[num_terms]`` took ``time_s``."""
        relative = terms / (time_s + self.grain_s)
        self.precision *= self.forgetting
        self.precision += np.multiply.outer(relative, relative)
        self.moment *= self.forgetting
        self.moment += relative * (time_s / (time_s + self.grain_s))
        self.num_updates += 1
        if self.num_updates % SOLVE_EVERY == 0:
            self.weights = self._solved()

    def _solved(self) -> NDArray[np.float64]:
        precision = self.precision + self.ridge * np.eye(len(self.prior))
        upper = cholesky(precision)  # precision = Uᵀ U, so that the squares are those of U weights - y
        target = solve_triangular(upper, self.moment + self.ridge * self.prior, trans="T")
        return np.asarray(nnls(upper, target)[0])

    def state(self) -> dict[str, Any]:
        """Everything, in arrays and plain values."""
        return {
            "precision": self.precision.copy(),
            "moment": self.moment.copy(),
            "weights": self.weights.copy(),
            "num_updates": self.num_updates,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        for name in ("precision", "moment", "weights"):
            expected = getattr(self, name).shape
            if np.shape(state[name]) != expected:
                raise ValueError(f"state: {name} has shape {np.shape(state[name])}, it must be {expected}")
        self.precision = np.array(state["precision"], np.float64)
        self.moment = np.array(state["moment"], np.float64)
        self.weights = np.array(state["weights"], np.float64)
        self.num_updates = int(state["num_updates"])
