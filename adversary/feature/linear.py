"""A lie that is a simple function of the true state, with few parameters: what a black-box search turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adversary.threat import Knob, UnitPositions, Values
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    FRAC_PREFIX_HIT,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_RUNNING,
    NUM_WAITING,
    Observation,
)

LOOKED_AT = (
    NUM_WAITING,
    NUM_RUNNING,
    FRAC_KV_CACHE_USAGE,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    FRAC_PREFIX_HIT,
)
"""Columns that say how loaded an instance is, and whether it holds the request's prefix."""
_COLUMNS = np.array(LOOKED_AT)
ALIKE = 1e-9
"""Spread, relative to the size of the values, below which all instances are alike in a feature."""


class LinearLiar:
    """Wants, for instance i and a kind of knob f, the unit position tanh(w_f · φ_i + b_f).

    φ_i are the true ``LOOKED_AT`` of instance i, standardised over the instances that may be chosen. The
    weights are shared by the instances, so that permuting them permutes the lies, and what was found on 4
    instances is tried on 40. A knob of no instance in particular has φ = 0.

    Args:
        knobs: Of the threat model.
        parameters: ``[num_parameters]``: for each kind of knob, in their order, the weights and then the
            bias; null: all 0, which is neutral for knobs that can be turned both ways.
    """

    def __init__(self, knobs: Sequence[Knob], parameters: NDArray[np.float64] | None = None) -> None:
        self.knobs = tuple(knobs)
        names = [knob.name.removesuffix(f"[{knob.instance}]") for knob in knobs]
        self.kinds = tuple(dict.fromkeys(names))
        self._kind = np.array([self.kinds.index(name) for name in names])
        self._instance = np.array([knob.instance for knob in knobs])  # -1: the row of zeros at the end
        self._units = UnitPositions(knobs)
        if parameters is None:
            parameters = np.zeros(self.num_parameters)
        if np.shape(parameters) != (self.num_parameters,) or not np.isfinite(parameters).all():
            raise ValueError(
                f"parameters have shape {np.shape(parameters)}, they must be {self.num_parameters} finite"
                f" numbers: {len(LOOKED_AT)} weights and a bias for each of {', '.join(self.kinds)}"
            )
        table = np.array(parameters, np.float64).reshape(len(self.kinds), -1)
        self._weights, self._biases = table[:, :-1].T, table[:, -1]

    @property
    def num_parameters(self) -> int:
        """Numbers that a search has to find."""
        return len(self.kinds) * (len(LOOKED_AT) + 1)

    def with_parameters(self, parameters: NDArray[np.float64]) -> LinearLiar:
        """Another one for the same knobs."""
        return LinearLiar(self.knobs, parameters)

    def reset(self, rng: np.random.Generator) -> None:
        """Do nothing: it leaves nothing to chance."""

    def choose(self, observation: Observation, now_s: float) -> Values:
        """The lies of this state."""
        wanted = self._biases + standardised(observation) @ self._weights  # [max_instances + 1, num_kinds]
        return self._units.values(np.tanh(wanted[self._instance, self._kind]))


def standardised(observation: Observation) -> NDArray[np.float64]:
    """``LOOKED_AT`` less their mean over the valid instances, over their standard deviation.

    ``[max_instances + 1, len(LOOKED_AT)]``; 0 where all are alike, in masked rows, and in a last row that
    stands for no instance.
    """
    valid = observation["mask"].nonzero()[0]
    held = observation["instances"].take(_COLUMNS, axis=1)[valid].astype(np.float64)
    mean = held.sum(axis=0) / len(held)
    away = held - mean
    spread = np.sqrt((away * away).sum(axis=0) / len(held))
    spread[spread <= ALIKE * (1.0 + np.abs(mean))] = np.inf
    features = np.zeros((len(observation["mask"]) + 1, len(LOOKED_AT)))
    features[valid] = away / spread
    return features
