"""``RouteGym/WorldAdversary-v0``: one step is one window of an attack on the world; the victim lives inside.

    import adversary, gymnasium
    env = gymnasium.make("RouteGym/WorldAdversary-v0")     # or make_env=..., victim=..., threat=..., harm=...
    observation, info = env.reset(seed=0)
    while not done:
        observation, reward, done, _, info = env.step(wanted)   # a position in [-1, 1] for each knob
    info["trace"].save(path)                                # what was done

What is wanted passes through the ``Projector``, so that bounds and budget hold whatever the agent does. The
sum of an episode's rewards is the attack's ``Harm``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from adversary.harm import Harm, Relative
from adversary.threat import Budget, UnitPositions, neutral
from adversary.world.threat import WorldThreat
from adversary.world.trial import WorldTrial
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.round_robin import RoundRobin
from agents.policy import Policy
from envs.emulator.fleet import cluster
from envs.observation import (
    ENCODED_NAMES,
    INSTANCE_HIGH,
    INSTANCE_LOW,
    REQUEST_HIGH,
    REQUEST_LOW,
    encode,
)
from envs.routing import DEFAULT_FLEET, RoutingEnv
from envs.workload import generator
from envs.world import World

SEEN = (
    "num_waiting",
    "num_running",
    "frac_kv_cache_usage",
    "frac_prefix_hits",
    "num_in_flight",
    "num_in_flight_uncached_tokens",
    "recent_ttft_s",
)
"""Features of each instance that the attacker sees, encoded, as the victim saw them at the last arrival."""

RATE_PER_S = 1.5
"""Of the default requests: without an attack the default fleet keeps up with them."""

_COLUMNS = [ENCODED_NAMES.index(name) for name in SEEN]


def default_routing_env() -> RoutingEnv:
    """The default fleet under the generator's requests, in a world where restarts take ten seconds."""
    return RoutingEnv(
        cluster(DEFAULT_FLEET, world=World(cold_start_s=10.0)),
        generator.workload(num_generated=2000, num_requests=600, rate_per_s=RATE_PER_S, start="random"),
        max_retries=3,
    )


def default_threat() -> WorldThreat:
    """A minute in windows of five seconds, with some of each kind of knob."""
    return WorldThreat(
        window_s=5.0,
        num_windows=12,
        budget=Budget(max_slope=0.5, window=2, max_instances=1),
        rate_factor=[0.5, 1.5],
        frac_unshared=0.5,
        slowdown=3.0,
    )


class WorldAdversaryEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """An attacker's view of a world with a victim in it.

    An action is a position in [-1, 1] for each knob (``adversary.threat.UnitPositions``). An observation is
    one row: of each instance the features ``SEEN``, the share of the windows played, the values of the last
    window as positions, and of victim and reference the mean wait per request, in the last window and so far,
    as x / (1 + x). An episode plays on the world of one of ``seeds``, drawn anew by each ``reset``, or of
    ``options["world_seed"]``.

    Args:
        make_env: Makes a ``RoutingEnv``, the same each time, that fits the threat (``WorldEpisode``).
        victim: The policy that is attacked, by default ``LeastInFlight``.
        reference: The router that an attack is not to harm, for a ``harm`` that needs one; by default
            ``RoundRobin``.
        threat: What may be done.
        harm: What is rewarded, by default the harm beyond the reference's.
        seeds: Of the worlds to play on.

    Raises:
        ValueError: There is no seed, or the parts do not fit.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        make_env: Callable[[], RoutingEnv] | None = None,
        victim: Policy | None = None,
        reference: Policy | None = None,
        threat: WorldThreat | None = None,
        harm: Harm | None = None,
        seeds: Sequence[int] = tuple(range(8)),
    ) -> None:
        make_env = make_env if make_env is not None else default_routing_env
        threat = threat if threat is not None else default_threat()
        victim = victim if victim is not None else LeastInFlight()
        self.harm: Harm = harm if harm is not None else Relative()
        if not len(seeds):
            raise ValueError("seeds is empty: give at least one world to play on")
        if not self.harm.needs_reference:
            reference = None
        elif reference is None:
            reference = RoundRobin()
        self.trial = WorldTrial.of(make_env, victim, threat, reference)
        self.seeds = tuple(seeds)
        self._knobs = self.trial.victim.knobs
        self._units = UnitPositions(self._knobs)
        self._num_instances = len(self.trial.victim.cluster.traits)
        num = len(self._knobs)
        bounds = []
        for instance, request, position in (
            (INSTANCE_LOW, REQUEST_LOW, [0.0] + [-1.0] * num + [0.0] * 4),
            (INSTANCE_HIGH, REQUEST_HIGH, [1.0] + [1.0] * num + [1.0] * 4),
        ):
            features = np.tile(_encoded(instance[None], request), self._num_instances)
            bounds.append(np.concatenate((features, position)).astype(np.float32))
        self.observation_space = spaces.Box(bounds[0], bounds[1])
        self.action_space = spaces.Box(-1.0, 1.0, (num,), np.float32)
        self._is_over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an attack on a world; its seed is ``info["world_seed"]``."""
        super().reset(seed=seed)
        world_seed = self.seeds[int(self.np_random.integers(len(self.seeds)))]
        if options is not None and "world_seed" in options:
            world_seed = int(options["world_seed"])
        self.trial.begin(world_seed)
        self._is_over = False
        return self._look(), {"world_seed": world_seed}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play a window; ``info`` holds its ``values``, the ``losses`` so far, and in the end the ``trace``.

        Raises ``gymnasium.error.ResetNeeded`` after the end of an episode.
        """
        if self._is_over:
            raise gymnasium.error.ResetNeeded("the attack is over: call reset")
        before = self.harm(self.trial.losses)
        losses = self.trial.play_window(self._units.values(action))
        values = self.trial.values
        self._is_over = len(values) == self.trial.threat.num_windows
        info: dict[str, Any] = {"values": values[-1], "losses": losses}
        if self._is_over:
            info["trace"] = self.trial.trace(harm=self.harm(losses))
        return self._look(), self.harm(losses) - before, self._is_over, False, info

    def close(self) -> None:
        """Close the worlds."""
        self.trial.victim.env.close()
        if self.trial.reference is not None:
            self.trial.reference.env.close()

    def _look(self) -> NDArray[np.float32]:
        values, losses = self.trial.values, self.trial.losses
        num_played = len(values)
        features = np.zeros(len(SEEN) * self._num_instances, np.float32)
        if num_played:
            seen = self.trial.victim.observation
            rows = seen["instances"][: self._num_instances]
            features = _encoded(rows, seen["request"])
        positions = self._units.positions(values[-1] if num_played else neutral(self._knobs))
        waits_s = [
            float(loss[first:].sum()) / max(int(losses.num_requests[first:].sum()), 1)
            for loss in (losses.victim, losses.reference)
            for first in (max(num_played - 1, 0), 0)
        ]
        share = num_played / self.trial.threat.num_windows
        squashed = [wait_s / (1.0 + wait_s) for wait_s in waits_s]
        return np.concatenate((features, [share], positions, squashed)).astype(np.float32)


def _encoded(instances: NDArray[Any], request: NDArray[Any]) -> NDArray[np.float32]:
    """The features ``SEEN`` of ``[num, num_instance_features]``, flat."""
    mask = np.ones(len(instances), np.int8)
    return encode(instances, request, mask)[:, _COLUMNS].ravel()
