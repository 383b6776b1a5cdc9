"""One policy routes in one attacked world, whose values become known window by window.

    episode = WorldEpisode(env, policy, threat)
    episode.begin(seed)
    for values in attack:                               # [num_knobs] each
        num_requests, waited_s = episode.play_window(values)
    waited_s = episode.finish()
    episode.rollout().ledger

At the end of a window the decision of its last request is held back: what follows it lies in the next window,
whose values are not known yet. So an attacker may look at what its last window did before it chooses, and
the outcome is, to the last bit, that of the same values laid down beforehand (``adversary.world.files``).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np

from adversary.threat import Values, neutral
from adversary.world.stream import AttackedStream, stream_rng
from adversary.world.threat import WorldThreat
from agents.per_router import per_router
from agents.policy import Learner, Policy
from agents.rollout import Begun, Rollout, policy_rng
from envs.emulator.disturbed import DisturbedCluster
from envs.observation import Observation
from envs.routing import RoutingEnv
from envs.world import Schedule
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

FAILURE_S = 30.0
"""About how long a user waits before giving up."""


class WorldEpisode:
    """Takes the environment over: its workload becomes the attacked one, its reward minus the TTFT.

    Args:
        env: With an emulated cluster that has a world, and a trace in open loop. Episodes of several policies
            may take turns in it, each from its beginning to its end.
        policy: The victim. It is left as it is: one that learns does so in a copy, for one episode.
        threat: What may be done.
        failure_s: A request that fails for good counts as if it had waited so much longer: else a router
            that sends requests where they are refused at once would seem to do well.

    Raises:
        ValueError: The environment cannot be attacked so; says why and what to change.
    """

    def __init__(
        self, env: RoutingEnv, policy: Policy, threat: WorldThreat, failure_s: float = FAILURE_S
    ) -> None:
        cluster = env.cluster
        if not isinstance(cluster, DisturbedCluster):
            raise ValueError(
                f"the cluster is a {type(cluster).__name__}: attacks of the world need an emulated one with a"
                " world, such as cluster=demo world=quiet"
            )
        threat.check(cluster.traits, cluster.world)
        base = env.workload.base if isinstance(env.workload, AttackedStream) else env.workload
        if not failure_s >= 0.0:
            raise ValueError(f"failure_s is {failure_s}: it must be a number of seconds from 0")
        self.env, self.policy, self.threat, self.failure_s = env, policy, threat, failure_s
        self.cluster, self._world = cluster, cluster.world
        self.knobs = threat.knobs(len(cluster.traits))
        self.stream = AttackedStream(base, threat)
        env.reward = WeightedSum({"ttft": Weighted(Ttft())})
        self._begun: Begun | None = None

    @property
    def observation(self) -> Observation:
        """What the victim saw at the last arrival of the windows played, or in the end."""
        return self._running().observation

    def begin(self, seed: int) -> None:
        """Begin the episode of this seed: same seed, same trace, same chance."""
        self._seed, self._begun = seed, None
        self.env.workload = self.stream
        self.stream.forget()
        self.stream.reset(stream_rng(seed))
        self._values = neutral(self.knobs)
        policy = deepcopy(self.policy) if isinstance(self.policy, Learner) else self.policy
        self._acting = per_router(policy, self.env)
        self._acting.reset(policy_rng(seed))

    def play_window(self, values: Values) -> tuple[int, float]:
        """Play the next window with these values, ``[num_knobs]``, within bounds and budget already.

        Returns how many requests arrived in it, and for how many request-seconds requests waited for their
        first token from the last decision before to the last one in it, with ``failure_s`` for each whose
        failure was learned then.
        """
        window = self.stream.num_given
        num_requests = self.stream.give(values)
        events = self.threat.events(window, values, self._values)
        self._values = np.array(values)
        if window == 0:
            self.cluster.world = replace(self._world, schedule=Schedule(events))  # some happen at once
            try:
                self._begun = Begun(self.env.reset(seed=self._seed)[0])
            finally:
                self.cluster.world = self._world
        else:
            for event in events:
                self.cluster.plan(event)
        waited_s = 0.0
        while self.stream.next_is_known:
            waited_s += self._step()
        return num_requests, waited_s

    def finish(self) -> float:
        """Undo what was done to the instances and let all requests end; return what was waited meanwhile.

        Raises ``RuntimeError`` where windows are left.
        """
        begun, num_windows = self._running(), self.threat.num_windows
        if self.stream.num_given < num_windows:
            raise RuntimeError(f"{self.stream.num_given} of {num_windows} windows were played: play the rest")
        for event in self.threat.events(num_windows, neutral(self.knobs), self._values):
            self.cluster.plan(event)
        waited_s = 0.0
        while not begun.done:
            waited_s += self._step()
        return waited_s

    def rollout(self) -> Rollout:
        """What came of every request whose outcome is known; decisions are not timed."""
        return Rollout(self._running().ledger(), dict(self._acting.counters()), np.empty(0))

    def _running(self) -> Begun:
        if self._begun is None:
            raise RuntimeError("nothing was played: call begin, and play_window with the first values")
        return self._begun

    def _step(self) -> float:
        """Let the victim decide; return the request-seconds lost until the next decision."""
        begun = self._running()
        decision = self._acting.act(begun.observation)
        instance, mask = decision.instance, begun.observation["mask"]
        if np.isnan(decision.scores).any() or not (0 <= instance < len(mask) and mask[instance]):
            raise ValueError(
                f"the victim, {type(self.policy).__name__}, chose instance {instance} at decision"
                f" {len(begun.instances)} with the scores {decision.scores.tolist()} and the mask"
                f" {mask.tolist()}: no score may be NaN, and what is chosen must not be masked"
            )
        self.env.declare_propensity(decision.propensity)
        begun.observation, reward, begun.done, _, info = self.env.step(instance)
        begun.instances.append(instance)
        begun.propensities.append(decision.propensity)
        begun.outcomes.extend(info["completions"])
        self._acting.observe(info["completions"])
        num_lost = sum(bool(known.failure) and not known.is_retried for known in info["completions"])
        return num_lost * self.failure_s - reward
