"""The vectorised environment in Stable-Baselines3's form.

    envs = RoutingVecEnv(64)                        # or cluster=..., workload=..., reward=...
    model = MaskablePPO("MultiInputPolicy", envs)

It is what ``DummyVecEnv`` makes of as many ``RoutingEnv``, bit for bit, and many times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from envs.vector_worlds import RoutingWorlds


class RoutingVecEnv(VecEnv):
    """Routes a request stream over a cluster in each of many worlds; each begins anew when its episode ends.

    Args:
        num_envs: How many worlds.
        completions: Whether infos carry ``completions``, which agents of this library do not look at.
        threads: How many threads step the worlds.
        options: As those of ``envs.vector.RoutingVectorEnv``.
    """

    def __init__(self, num_envs: int, completions: bool = False, threads: int = 1, **options: Any) -> None:
        self._worlds = RoutingWorlds(num_envs, threads, **options)
        self._completions = completions
        self._everyone = np.ones(num_envs, np.bool_)
        self._propensities = np.full(num_envs, np.nan)
        super().__init__(num_envs, self._worlds.observation_space, self._worlds.action_space)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every world, by the seeds that ``seed`` set."""
        self._worlds.begin(self._everyone, self._seeds)
        self._propensities.fill(np.nan)
        self.reset_infos = [self._begun_info() for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return self._worlds.observation  # type: ignore[return-value]

    def declare_propensities(self, propensities: ArrayLike) -> None:
        """Say with what probability the next ``step``'s instances were chosen, for their feedback."""
        self._propensities[:] = propensities

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Note the actions."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Send every world's present request to an instance and let time pass until its next one arrives.

        Errors are those of ``envs.vector.RoutingVectorEnv.step``.
        """
        worlds = self._worlds
        worlds.step(self._everyone, self._actions, self._propensities)
        self._propensities.fill(np.nan)
        rewards, amounts = worlds.rewards(self._everyone)
        dones = worlds.is_over.copy()
        parts: list[dict[str, float]] = [{} for _ in range(self.num_envs)]
        for name, amount in amounts.items():
            for part, value in zip(parts, amount.tolist(), strict=True):
                part[name] = value
        infos: list[dict[str, Any]] = [
            {"reward": part, "time_s": time_s, "TimeLimit.truncated": False}
            for part, time_s in zip(parts, worlds.time_s.tolist(), strict=True)
        ]
        if self._completions:
            for number, info in enumerate(infos):
                info["completions"] = worlds.feedback(number)
        if dones.any():
            for number in np.flatnonzero(dones).tolist():
                infos[number]["terminal_observation"] = worlds.observation_of(number)
                self.reset_infos[number] = self._begun_info()
            worlds.begin(dones, [None] * self.num_envs)
        return worlds.observation, rewards.astype(np.float32), dones, infos  # type: ignore[return-value]

    def close(self) -> None:
        """Let the threads go."""
        self._worlds.close()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which instances the present requests may go to, ``[num_envs, max_instances]``."""
        return self._worlds.masks()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the worlds: those that they have alike, or ``action_masks``."""
        numbers = list(self._get_indices(indices))
        if attr_name == "action_masks":
            return [lambda number=number: self._worlds.masks()[number] for number in numbers]
        alike = {
            "render_mode": None,
            "observation_space": self._worlds.observation_space,
            "action_space": self._worlds.action_space,
            "reward": self._worlds.reward,
        }
        if attr_name not in alike:
            raise AttributeError(f"{attr_name!r} is none of action_masks, {', '.join(alike)}")
        return [alike[attr_name]] * len(numbers)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the worlds: ``action_masks`` is the only one."""
        if method_name != "action_masks":
            raise AttributeError(f"{method_name!r} is not a method of these worlds; action_masks is")
        masks = self._worlds.masks()
        return [masks[number] for number in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: the worlds are in compiled memory."""
        raise AttributeError(f"{attr_name!r} cannot be set: give it to the constructor")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No world is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Nothing: the worlds are not drawn."""
        return [None] * self.num_envs

    @staticmethod
    def _begun_info() -> dict[str, Any]:
        return {"completions": [], "time_s": 0.0}
