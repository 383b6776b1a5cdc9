"""Observations as a network reads them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.observation import (
    INSTANCE_HIGH,
    INSTANCE_LOW,
    REQUEST_HIGH,
    REQUEST_LOW,
    Observation,
    encode,
)


def encoded_space(max_instances: int) -> spaces.Dict:
    """The space of encoded observations of up to ``max_instances`` instances."""
    whole = np.ones(1, np.int8)
    low = np.minimum(encode(INSTANCE_LOW[None], REQUEST_LOW, whole), 0.0)
    high = np.maximum(encode(INSTANCE_HIGH[None], REQUEST_HIGH, whole), 0.0)
    return spaces.Dict(
        {
            "instances": spaces.Box(np.tile(low, (max_instances, 1)), np.tile(high, (max_instances, 1))),
            "mask": spaces.MultiBinary(max_instances),
        }
    )


class EncodedObservation(gym.ObservationWrapper[Observation, np.int64, Observation]):
    """Passes observations through ``envs.observation.encode``.

    ``instances`` is float32 ``[max_instances, len(ENCODED_NAMES)]``, ``mask`` int8 ``[max_instances]``.
    """

    def __init__(self, env: gym.Env[Observation, np.int64]) -> None:
        super().__init__(env)
        mask = env.observation_space["mask"] if isinstance(env.observation_space, spaces.Dict) else None
        if not isinstance(mask, spaces.MultiBinary):
            raise ValueError(
                f"{env} has the observation space {env.observation_space},"
                " it must be that of envs.observation.observation_space"
            )
        self.observation_space = encoded_space(mask.shape[0])

    def observation(self, observation: Observation) -> Observation:
        """Encode a raw observation."""
        mask = observation["mask"]
        return {"instances": encode(observation["instances"], observation["request"], mask), "mask": mask}

    def action_masks(self) -> NDArray[np.bool_]:
        """Where the present request may go, ``[max_instances]``."""
        masks: Any = self.env.get_wrapper_attr("action_masks")
        return np.asarray(masks(), np.bool_)
