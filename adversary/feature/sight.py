"""What an attacker's network reads: the true state, and what it is doing to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from adversary.threat import Knob, UnitPositions, Values
from envs.observation import (
    INSTANCE_HIGH,
    INSTANCE_LOW,
    REQUEST_HIGH,
    REQUEST_LOW,
    Observation,
    encode,
)


class Sight:
    """Flattens observations: the encoded rows of the instances, then the last values in unit positions.

    Args:
        knobs: Of the threat model.
        num_instances: Of the fleet.
    """

    def __init__(self, knobs: Sequence[Knob], num_instances: int) -> None:
        self.units = UnitPositions(knobs)
        self._num_instances = num_instances
        low, high = (
            encode(np.tile(bound, (num_instances, 1)), request, np.ones(num_instances)).ravel()
            for bound, request in ((INSTANCE_LOW, REQUEST_LOW), (INSTANCE_HIGH, REQUEST_HIGH))
        )
        ones = np.ones(len(knobs), np.float32)
        self.space = spaces.Box(
            np.concatenate([np.minimum(low, 0.0), -ones]), np.concatenate([np.maximum(high, 0.0), ones])
        )

    def look(self, observation: Observation, values: Values) -> NDArray[np.float32]:
        """What the attacker sees before a decision, of the true observation and the last values."""
        rows = slice(self._num_instances)
        encoded = encode(observation["instances"][rows], observation["request"], observation["mask"][rows])
        return np.concatenate([encoded.ravel(), self.units.positions(values)], dtype=np.float32)
