"""``RouteGym/FeatureAdversary-v0``: an attacker learns, in closed loop, to deceive the victim inside.

    import adversary, gymnasium
    env = gymnasium.make("RouteGym/FeatureAdversary-v0")      # or env=..., victim=..., threat=..., harm=...
    observation, info = env.reset(seed=0)
    while not done:
        observation, reward, done, _, info = env.step(action) # positions of the knobs, each in [-1, 1]
    info["trace"].save(path)

One step is one decision of the victim. The rewards of an episode add up to the harm of the attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from adversary.feature.deceived import require_decision
from adversary.feature.deception import Deception
from adversary.feature.episodes import Episodes, aligned
from adversary.feature.sight import Sight
from adversary.feature.spoof import Spoof
from adversary.feature.threat import FeatureThreat
from adversary.harm import Harm, Losses, Primary
from adversary.threat import Budget
from adversary.trace import AttackTrace
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.vllm_dp import VLLMDataParallel
from agents.per_router import per_router
from agents.policy import Policy
from agents.rollout import policy_rng
from envs.emulator.fleet import cluster as emulated_cluster
from envs.observation import Observation
from envs.routing import DEFAULT_FLEET, RoutingEnv
from envs.workload import generator
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum


def _default_env() -> RoutingEnv:
    return RoutingEnv(emulated_cluster(DEFAULT_FLEET), generator.workload(num_generated=200, rate_per_s=6.0))


def _default_threat() -> FeatureThreat:
    return FeatureThreat([Spoof({"num_waiting": 64.0, "num_running": 256.0})], Budget(max_instances=1))


class FeatureAdversaryEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """An environment whose agent is the attacker.

    The observation is flat: the encoded rows of the true instances, then the last values in unit positions
    (``adversary.feature.sight``). ``info`` holds ``values``, those of this step, and at the end ``losses``
    and ``trace``. The world of an episode is drawn by the environment's own chance, or given as
    ``options={"world_seed": 7}``.

    Args:
        env: The victim's world; null: a small emulated fleet. Its reward is replaced by the loss that harm
            is reckoned by, and nothing else must step it.
        victim: Whom to deceive; null: vLLM's own balancer. It is copied for each episode.
        threat: What is allowed; null: one instance at a time lies about its queue.
        harm: What the attacker wants; null: ``Primary``.
        reference: The router that relative harm compares with; null: round robin.
        world_seeds: Seeds of the worlds to train on: what the victim does in peace is played once for each;
            null: another world in each episode.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        env: RoutingEnv | None = None,
        victim: Policy | None = None,
        threat: FeatureThreat | None = None,
        harm: Harm | None = None,
        reference: Policy | None = None,
        world_seeds: Sequence[int] | None = None,
    ) -> None:
        if world_seeds is not None and not len(world_seeds):
            raise ValueError("world_seeds is empty: give at least one seed, or null for ever new worlds")
        self.env = env if env is not None else _default_env()
        self.env.reward = WeightedSum({"ttft": Weighted(Ttft())})
        self.harm: Harm = harm if harm is not None else Primary()
        self.world_seeds = world_seeds
        reference = reference if reference is not None else RoundRobin()
        self.episodes = Episodes(
            self.env,
            victim if victim is not None else VLLMDataParallel(),
            reference if self.harm.needs_reference else None,
        )
        num_instances = self.episodes.num_instances
        self._deception = Deception(threat if threat is not None else _default_threat(), num_instances)
        self._sight = Sight(self._deception.knobs, num_instances)
        self.observation_space = self._sight.space
        self.action_space = spaces.Box(-1.0, 1.0, (len(self._deception.knobs),), np.float32)
        self._look: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode: the victim as it was given, in a world where nothing is disturbed yet."""
        super().reset(seed=seed)
        if options is not None and "world_seed" in options:
            world_seed = int(options["world_seed"])
        elif self.world_seeds is not None:
            world_seed = self.world_seeds[int(self.np_random.integers(len(self.world_seeds)))]
        else:
            world_seed = int(self.np_random.integers(2**31))
            self.episodes.forget()
        self._world_seed = world_seed
        self._clean = self.episodes.clean(world_seed)
        self._reference = self.episodes.reference(world_seed)
        self._victim = per_router(deepcopy(self.episodes.victim), self.env)
        self._victim.reset(policy_rng(world_seed))
        self._deception.reset()
        self._look, _ = self.env.reset(seed=world_seed)
        self._requests: set[int] = set()
        num_decisions = len(self._clean)  # more where requests that failed are sent again
        self._num_requests = np.zeros(num_decisions, np.int64)
        self._waited_s = np.zeros(num_decisions)
        self._values: list[NDArray[np.float64]] = []
        self._harm = 0.0
        return self._sight.look(self._look, self._deception.projector.values), {"world_seed": world_seed}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Let the victim decide on what it is shown; the reward is the harm that this did.

        Raises ``ValueError`` where the victim's decision is none, and ``gymnasium.error.ResetNeeded`` after
        the end of an episode.
        """
        look = self._look
        if look is None:
            raise gymnasium.error.ResetNeeded("there is no episode: call reset")
        env, victim = self.env, self._victim
        wanted = self._sight.units.values(action)
        values, seen = self._deception.lie(look, wanted, env.cluster.now_s)
        decision = victim.act(seen)
        require_decision(decision, look["mask"], self.episodes.victim, len(self._values))
        num_before = len(self._requests)
        self._requests.add(env.request.request_id)
        env.declare_propensity(decision.propensity)
        look, reward, done, _, known = env.step(decision.instance)
        victim.observe(known["completions"])
        self._note(len(self._requests) - num_before, -float(reward))
        self._values.append(values)
        info: dict[str, Any] = {"values": values}
        losses = self._losses(done)
        harm = self.harm(losses)
        gained, self._harm = harm - self._harm, harm
        if done:
            about = {"world_seed": self._world_seed, "harm": harm}
            info["losses"] = losses
            info["trace"] = AttackTrace(
                "feature", self._deception.knobs, self._deception.budget, np.array(self._values), 0.0, about
            )
        self._look = None if done else look
        return self._sight.look(look, values), gained, done, False, info

    def close(self) -> None:
        """Close the victim's world."""
        super().close()
        self.env.close()

    def _note(self, num_requests: int, waited_s: float) -> None:
        step = len(self._values)
        if step == len(self._waited_s):
            self._num_requests = np.append(self._num_requests, np.zeros_like(self._num_requests))
            self._waited_s = np.append(self._waited_s, np.zeros_like(self._waited_s))
        self._num_requests[step], self._waited_s[step] = num_requests, waited_s

    def _losses(self, done: bool) -> Losses:
        num = len(self._values)
        reference, clean = (
            aligned(losses if done else losses[:num], num) for losses in (self._reference, self._clean)
        )
        return Losses(self._num_requests[:num], self._waited_s[:num], reference, clean)
