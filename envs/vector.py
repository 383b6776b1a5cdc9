"""``RouteGym/Routing-v0`` many times over: emulated clusters stepped together by one compiled call.

    envs = gymnasium.make_vec("RouteGym/Routing-v0", num_envs=64)  # or cluster=..., workload=..., reward=...
    observations, infos = envs.reset(seed=0)
    while learning:
        instances = choose(observations)                           # [num_envs]
        observations, rewards, terminations, truncations, infos = envs.step(instances)
        learn(infos["completions"])                                # one list of outcomes per environment

It is what ``gymnasium.vector.SyncVectorEnv`` makes of as many ``RoutingEnv``, bit for bit and in every
autoreset mode, and many times as fast. ``envs.vector_worlds.checked`` says which worlds cannot be had so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs.observation import Observation
from envs.routing import RoutingEnv
from envs.vector_worlds import RoutingWorlds

Infos = dict[str, Any]


class RoutingVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Routes a request stream over a cluster in each of many worlds.

    Args:
        num_envs: How many worlds.
        autoreset_mode: When a world whose episode has ended begins the next: ``AutoresetMode.NEXT_STEP``,
            ``SAME_STEP`` or ``DISABLED`` (by ``reset`` with ``options={"reset_mask": ...}``).
        threads: How many threads step the worlds.
        options: As those of ``envs.routing.RoutingEnv``; the workload must be a replay, the cluster
            emulated. Each world has instances of its own and a stream by its own seed.
    """

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int = 1,
        **options: Any,
    ) -> None:
        self._mode = AutoresetMode(autoreset_mode)
        self._worlds = RoutingWorlds(num_envs, threads, **options)
        self.num_envs = num_envs
        self.metadata = {**RoutingEnv.metadata, "autoreset_mode": self._mode}
        self.single_observation_space = self._worlds.observation_space
        self.single_action_space = self._worlds.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._propensities = np.full(num_envs, np.nan)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator | None, ...]:  # type: ignore[override]
        """Each world's generator; None before its first reset."""
        return tuple(self._worlds.np_randoms)

    def reset(  # type: ignore[override]
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Infos]:
        """Begin an episode in every world, or where ``options["reset_mask"]`` (bool ``[num_envs]``) says so.

        World ``i`` is seeded with ``seed + i``, or with ``seed[i]``.
        """
        if seed is None:
            seeds: list[int | None] = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + number for number in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"there are {len(seeds)} seeds for {self.num_envs} environments: give as many")
        which = np.ones(self.num_envs, np.bool_)
        if options and "reset_mask" in options:
            which = np.asarray(options["reset_mask"])
            if which.shape != (self.num_envs,) or which.dtype != np.bool_ or not which.any():
                raise ValueError(
                    f"reset_mask is {options['reset_mask']!r}, it must be bool [{self.num_envs}] and true"
                    " somewhere"
                )
        self._worlds.begin(which, seeds)
        self._propensities[which] = np.nan
        return self._worlds.observation, self._begun_infos(which)

    def declare_propensities(self, propensities: ArrayLike) -> None:
        """Say with what probability the next ``step``'s instances were chosen, for their feedback."""
        given = np.asarray(propensities, np.float64)
        if given.shape != (self.num_envs,):
            raise ValueError(f"propensities have shape {given.shape}, they must be [{self.num_envs}]")
        self._propensities = given.copy()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which instances the present requests may go to, ``[num_envs, max_instances]``."""
        return self._worlds.masks()

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Send every world's present request to an instance and let time pass until its next one arrives.

        By ``NEXT_STEP``, the action of a world whose episode has ended is not looked at: it begins the next.

        Raises:
            ValueError: The actions are not whole numbers ``[num_envs]``.
            MaskedActionError: An observation masks its action; no world has been stepped then.
            gymnasium.error.ResetNeeded: A world was not reset, or by ``DISABLED`` not after its end.
        """
        worlds = self._worlds
        which = ~worlds.is_over if self._mode == AutoresetMode.NEXT_STEP else np.ones(self.num_envs, np.bool_)
        worlds.step(which, actions, self._propensities)
        self._propensities.fill(np.nan)
        rewards, amounts = worlds.rewards(which)
        ended = worlds.is_over & which
        infos: Infos = {}
        told, to_begin = which, ~which
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            infos = {"final_obs": np.full(self.num_envs, None, object), "_final_obs": ended.copy()}
            for number in np.flatnonzero(ended).tolist():
                infos["final_obs"][number] = worlds.observation_of(number)
            infos["final_info"], infos["_final_info"] = self._infos(ended, amounts), ended.copy()
            told, to_begin = ~ended, ended
        infos |= self._infos(told, amounts) if told.any() else {}
        if to_begin.any():
            worlds.begin(to_begin, [None] * self.num_envs)
            infos = _joined(infos, self._begun_infos(to_begin))
        truncations = np.zeros(self.num_envs, np.bool_)
        return worlds.observation, rewards, ended, truncations, infos

    def render(self) -> None:
        """Refuse: many worlds are not drawn."""
        raise gymnasium.error.UnsupportedMode("RoutingVectorEnv does not render: use a RoutingEnv")

    def close_extras(self, **kwargs: Any) -> None:
        """Let the threads go."""
        self._worlds.close()

    def _infos(self, which: NDArray[np.bool_], amounts: dict[str, NDArray[np.float64]]) -> Infos:
        """What some worlds' step tells, each entry with a mask of those that have it."""
        completions = np.full(self.num_envs, None, object)
        for number in np.flatnonzero(which).tolist():
            completions[number] = self._worlds.feedback(number)
        reward: Infos = {}
        for name, amount in amounts.items():
            reward[name], reward[f"_{name}"] = np.where(which, amount, 0.0), which.copy()
        return {
            **self._entry("completions", completions, which),
            **self._entry("reward", reward, which),
            **self._entry("time_s", np.where(which, self._worlds.time_s, 0.0), which),
        }

    def _begun_infos(self, which: NDArray[np.bool_]) -> Infos:
        """What some worlds' reset tells."""
        completions = np.full(self.num_envs, None, object)
        for number in np.flatnonzero(which).tolist():
            completions[number] = []
        return {
            **self._entry("completions", completions, which),
            **self._entry("time_s", np.where(which, self._worlds.time_s, 0.0), which),
        }

    def _entry(self, name: str, value: Any, which: NDArray[np.bool_]) -> Infos:
        return {name: value, f"_{name}": which.copy()}


def _joined(infos: Infos, begun: Infos) -> Infos:
    """Both, of worlds of which none has both."""
    joined = {**begun, **infos}
    if "completions" in infos:
        for name in ("completions", "time_s"):
            has = begun[f"_{name}"]
            joined[name] = np.where(has, begun[name], infos[name])
            joined[f"_{name}"] = has | infos[f"_{name}"]
    return joined
