"""Many routing worlds of one kind, stepped by one call: what the vectorised environments are made of.

    worlds = RoutingWorlds(64, cluster=..., workload=...)
    worlds.begin(everyone, seeds)
    worlds.step(everyone, actions, propensities)
    worlds.observation, worlds.is_over, worlds.time_s, worlds.rewards(everyone), worlds.feedback(0)

Each world does what a ``RoutingEnv`` of the same arguments does, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import ArrayLike, NDArray

from envs.emulator.build import build_state
from envs.emulator.cluster import EmulatedCluster
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import MaskedActionError, NoInstanceError, RoutingEnv
from envs.vector_state import blank_worlds, restore, stream_of, with_room
from envs.vector_step import BEGIN, REST, STEP, Rules, play
from envs.workload.replay import Replay
from reward.interval import Interval

_INTEGRALS = ("duration_s", "waiting_request_s", "in_flight_request_s")
_OF_OUTCOMES = ("ttft_s", "tpot_s", "e2e_s", "slo_met", "num_output_tokens")
"""Fields of an ``Interval``."""


def checked(env: RoutingEnv) -> tuple[EmulatedCluster, Replay]:
    """Return a world's cluster and workload; ``ValueError`` naming what keeps it from being stacked."""
    cluster, workload = env.cluster, env.workload
    if type(cluster) is not EmulatedCluster:
        reason = f"the cluster is a {type(cluster).__name__}, not an EmulatedCluster"
    elif type(workload) is not Replay:
        reason = f"the workload is a {type(workload).__name__}, not a Replay"
    elif env.num_routers > 1:
        reason = f"num_routers is {env.num_routers}, and worlds that are stacked have one router each"
    elif env.render_mode is not None:
        reason = f"render_mode is {env.render_mode!r}, and many worlds are not drawn"
    else:
        return cluster, workload
    raise ValueError(
        f'{reason}: vectorise RoutingEnvs one by one (vectorization_mode="sync", or'
        " gymnasium.vector.SyncVectorEnv; each environment needs a cluster and a workload of its own)"
    )


class RoutingWorlds:
    """So many worlds.

    Args:
        num_envs: How many.
        threads: How many threads step them.
        options: As those of ``RoutingEnv``. Cluster and workload are looked at, not used up: each world has
            instances of its own, and a stretch of the workload's trace by its own generator.
    """

    def __init__(self, num_envs: int, threads: int = 1, **options: Any) -> None:
        for name, value in (("num_envs", num_envs), ("threads", threads)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, it must be a whole number of at least 1")
        env = RoutingEnv(**options)
        cluster, workload = checked(env)
        view = env.view
        self._workload = copy(workload)  # says where each episode's stretch begins
        self.num_envs = num_envs
        self.reward = env.reward
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.is_over = np.zeros(num_envs, np.bool_)
        """Which have no request left; those that have not begun do not count."""
        self.np_randoms: list[np.random.Generator | None] = [None] * num_envs
        self._begun = np.zeros(num_envs, np.bool_)
        self._numbers = np.arange(num_envs)
        self._configs, self._block_size = cluster.configs, cluster.block_size
        self._pristine = build_state(self._configs, self._block_size)
        self._stream = stream_of(self._workload)
        self._rules = Rules(
            block_size=self._block_size,
            scrape_interval_s=float(cluster.scrape_interval_s),
            half_life_s=float(view.half_life_s),
            keys=view.index.keys,
            exact_prefix_hits=env.exact_prefix_hits,
            gauges_at_steps=cluster.gauges_at_steps,
        )
        self._worlds = blank_worlds(
            self._pristine,
            cluster.traits,
            view.max_instances,
            int(self._stream.tenant_number.max()) + 1,
            view.index.capacity,
            num_envs,
        )
        bounds = np.linspace(0, num_envs, min(threads, num_envs) + 1).astype(int).tolist()
        self._shares = list(pairwise(bounds))
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = 0

    def begin(self, which: NDArray[np.bool_], seeds: Sequence[int | None]) -> None:
        """Begin an episode in some worlds; None as seed goes on with the world's generator."""
        for number in np.flatnonzero(which).tolist():
            self._prepare(number, seeds[number])
        self._play(np.where(which, BEGIN, REST), np.zeros(self.num_envs, np.int64))

    def step(self, which: NDArray[np.bool_], actions: ArrayLike, propensities: NDArray[np.float64]) -> None:
        """Step some worlds; the others rest, and their actions are not looked at.

        Raises ``ValueError`` for actions that are not one whole number per world, ``MaskedActionError`` for
        one whose instance is masked, and ``gymnasium.error.ResetNeeded`` where a world has no request.
        """
        self._play(np.where(which, STEP, REST), self._checked(which, actions), propensities)

    @property
    def observation(self) -> Observation:
        """What all routers see, ``[num_envs, ...]``, in arrays of its own."""
        desk = self._worlds.desk
        return {
            "instances": desk.instances.copy(),
            "request": desk.request.copy(),
            "mask": desk.mask.copy(),
        }

    def observation_of(self, number: int) -> Observation:
        """What one router sees, in arrays of its own."""
        desk = self._worlds.desk
        return {
            "instances": desk.instances[number].copy(),
            "request": desk.request[number].copy(),
            "mask": desk.mask[number].copy(),
        }

    @property
    def time_s(self) -> NDArray[np.float64]:
        """The instant each world is at."""
        return self._episodes["now_s"].copy()

    def masks(self) -> NDArray[np.bool_]:
        """Which instances each present request may go to, ``[num_envs, max_instances]``."""
        if not self._begun.all():
            raise gymnasium.error.ResetNeeded("there is no request yet: call reset")
        return self._worlds.desk.mask.astype(np.bool_)

    def rewards(self, which: NDArray[np.bool_]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Rewards of the last step and each term's amounts, ``[num_envs]``; 0 in the other worlds."""
        columns: Any = [self._episodes[name].copy() for name in _INTEGRALS]
        return self.reward.of_many(Interval(*columns), which, self._interval)

    def feedback(self, number: int) -> list[Feedback]:
        """What became known in a world's last step of the decisions before it."""
        num_completed = self._episodes["num_completed"][number]
        make: Callable[..., Feedback] = Feedback
        return [make(*row, "") for row in self._worlds.desk.outcomes[number, :num_completed].tolist()]

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()

    @property
    def _episodes(self) -> NDArray[np.void]:
        return self._worlds.episode[:, 0]

    def _interval(self, number: int) -> Interval:
        episode = self._episodes[number]
        parts: dict[str, Any] = {name: float(episode[name]) for name in _INTEGRALS}
        if episode["num_completed"]:
            rows = self._worlds.desk.outcomes[number, : episode["num_completed"]]
            parts |= {name: rows[name].copy() for name in _OF_OUTCOMES}
        return Interval(**parts)

    def _prepare(self, number: int, seed: int | None) -> None:
        """Draw a world's next stretch and put its instances back to time 0."""
        rng = self.np_randoms[number]
        if seed is not None or rng is None:
            rng = self.np_randoms[number] = seeding.np_random(seed)[0]
        self._workload.reset(rng.spawn(1)[0])
        self._episodes["first"][number] = self._workload.first
        restore(self._worlds.state, number, self._pristine)
        self._begun[number] = True

    def _checked(self, which: NDArray[np.bool_], actions: ArrayLike) -> NDArray[np.int64]:
        given = np.asarray(actions)
        if given.shape != (self.num_envs,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"actions are {given.dtype} of shape {given.shape},"
                f" they must be whole numbers of shape ({self.num_envs},)"
            )
        rests = ~which
        waits = self._begun & ~self.is_over | rests
        if not waits.all():
            number = int(np.argmin(waits))
            raise gymnasium.error.ResetNeeded(f"env {number} has no request: call reset")
        mask = self._worlds.desk.mask
        chosen: NDArray[np.int64] = given.astype(np.int64).clip(0, mask.shape[1] - 1)
        valid = (chosen == given) & (mask[self._numbers, chosen] != 0) | rests
        if not valid.all():
            number = int(np.argmin(valid))
            episode = self._episodes[number]
            num_tokens = self._stream.num_prompt_tokens[episode["first"] + episode["num_sent"]]
            raise MaskedActionError(
                f"env {number}: instance {given[number]} is masked for request {episode['num_sent']}"
                f" ({num_tokens} prompt tokens): choose one whose mask is 1"
            )
        return chosen

    def _play(
        self,
        tasks: NDArray[np.generic],
        actions: NDArray[np.int64],
        propensities: NDArray[np.float64] | None = None,
    ) -> None:
        """Do these tasks in all worlds, making room where a request finds none."""
        todo = tasks.astype(np.int8)
        if propensities is None:
            propensities = np.zeros(self.num_envs)
        shares = self._shares
        while shares:
            arguments = [
                (self._worlds, self._rules, self._stream, todo, actions, propensities, *share)
                for share in shares
            ]
            others = [self._threads().submit(play, *each) for each in arguments[1:]]
            reached = [play(*arguments[0]), *(other.result() for other in others)]
            shares = [(at, stop) for at, (_, stop) in zip(reached, shares, strict=True) if at < stop]
            for number, _ in shares:
                self._make_room(number)
        self._after(todo)

    def _threads(self) -> ThreadPoolExecutor:
        """Those that take all shares but the first; a forked process has none of its parent's."""
        if self._pool is None or self._pool_of != os.getpid():
            self._pool, self._pool_of = ThreadPoolExecutor(len(self._shares) - 1), os.getpid()
        return self._pool

    def _make_room(self, number: int) -> None:
        episode = self._episodes[number]
        row = episode["first"] + episode["num_sent"]
        offsets = self._stream.hash_offsets
        self._worlds = with_room(self._worlds, number, int(offsets[row + 1] - offsets[row]))
        num_slots = self._worlds.state.requests.shape[1]
        if num_slots != len(self._pristine.requests):
            self._pristine = build_state(self._configs, self._block_size, num_slots)

    def _after(self, tasks: NDArray[np.int8]) -> None:
        """Note who is at the end, and see to it that the others' requests can go somewhere."""
        num_sent = self._episodes["num_sent"]
        acted = tasks != REST
        self.is_over[acted] = num_sent[acted] == self._stream.num_requests
        stuck = acted & ~self.is_over & ~self._worlds.desk.mask.any(axis=1)
        if stuck.any():
            number = int(np.argmax(stuck))
            row = self._episodes["first"][number] + num_sent[number]
            raise NoInstanceError(
                f"env {number}: request {num_sent[number]} ({self._stream.num_prompt_tokens[row]} prompt"
                " tokens) can go to no instance: none has a max_model_len above that; set the workload's"
                " max_model_len to drop such requests, or raise the cluster's"
            )
