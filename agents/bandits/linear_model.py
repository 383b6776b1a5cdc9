"""Bayesian ridge regression of the reward on a context, learned one sample at a time.

The one model is shared by all instances: its context is an instance's encoded row and a bias. So it does
not know instances by their number, and serves any number of them. The request's columns are the same in
every row; in a linear model they shift all scores alike and tell instances apart only by the bonus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri

from agents.hyperparameters import check_positive


def contexts_of(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Append the bias: ``[..., num_features]`` to ``[..., num_features + 1]``."""
    wide = rows.astype(np.float64)
    return np.concatenate([wide, np.ones_like(wide[..., :1])], axis=-1)


class LinearModel:
    """Precision ``A`` and moment ``b`` of the weights; their mean is ``A⁻¹ b``.

    ``forgetting`` γ in (0, 1] weighs a sample seen n updates ago by γⁿ (discounted LinUCB: Russac et al.
    2019); 1 remembers all. The ridge is not forgotten, so that ``A`` stays invertible.
    """

    def __init__(self, num_features: int, ridge: float, forgetting: float) -> None:
        check_positive(ridge=ridge)
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting is {forgetting}, it must be in (0, 1]")
        self.ridge, self.forgetting = ridge, forgetting
        self.precision = ridge * np.eye(num_features)
        self.moment = np.zeros(num_features)
        self.num_updates = 0
        self._factored = False

    def update(self, context: NDArray[np.float64], reward: float) -> None:
        """Learn one sample."""
        if self.forgetting < 1:
            self.precision *= self.forgetting
            self.precision.flat[:: len(self.moment) + 1] += (1 - self.forgetting) * self.ridge
            self.moment *= self.forgetting
        self.precision += np.multiply.outer(context, context)
        self.moment += reward * context
        self.num_updates += 1
        self._factored = False

    def posterior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean weights ``[d]`` and whitening ``W`` ``[d, d]`` with ``W Wᵀ = A⁻¹``.

        A context's standard deviation, for noise of 1 s, is the norm of ``context @ W``.
        """
        if not self._factored:
            upper, failed = dpotrf(self.precision)  # A = Uᵀ U
            if failed:
                raise FloatingPointError("the precision matrix is not positive definite: raise ridge")
            self._whitening, _ = dtrtri(upper)  # A⁻¹ = U⁻¹ U⁻ᵀ
            self._mean = self._whitening @ (self.moment @ self._whitening)
            self._factored = True
        return self._mean, self._whitening

    def state(self) -> dict[str, Any]:
        """Everything, in arrays and plain values."""
        return {
            "precision": self.precision.copy(),
            "moment": self.moment.copy(),
            "num_updates": self.num_updates,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        for name in ("precision", "moment"):
            expected = getattr(self, name).shape
            if np.shape(state[name]) != expected:
                raise ValueError(f"state: {name} has shape {np.shape(state[name])}, it must be {expected}")
        self.precision = np.array(state["precision"], np.float64, order="C")
        self.moment = np.array(state["moment"], np.float64)
        self.num_updates = int(state["num_updates"])
        self._factored = False
