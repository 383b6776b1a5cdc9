"""Whole episodes of one victim, in peace and deceived, with what each decision lost.

The loss of a decision is the time that requests spent waiting for their first token until the next one (the
last one: until nothing was in flight), in request-seconds: over an episode, the sum of all TTFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adversary.feature.deceived import Deceived
from adversary.feature.liar import Liar
from adversary.feature.threat import FeatureThreat
from adversary.harm import Losses
from adversary.threat import Knob
from adversary.trace import AttackTrace
from agents.per_router import per_router
from agents.policy import Policy
from agents.rollout import Rollout, finish, policy_rng, replay
from envs.routing import RoutingEnv
from reward.interval import Interval

Floats = NDArray[np.float64]
Attacker: TypeAlias = Liar | Callable[[Policy], Liar]
"""A liar, or what makes one for the copy of the victim that is to be deceived: one that follows its gradient
as it learns (behind several routers: as it was before the episode)."""


class Attacked(NamedTuple):
    """An episode of a deceived victim."""

    losses: Losses
    """Per decision; ``reference`` is 0 where there is no reference router."""
    trace: AttackTrace
    rollout: Rollout


class Episodes:
    """Plays a victim in an environment; what happened in peace is played once per seed and kept.

    Policies are copied for each episode, so that what they learn in one does not reach the next.

    Args:
        env: The world. Nothing else must step it meanwhile.
        victim: Whom to deceive; with several routers each runs a copy, and one attacker deceives them all.
        reference: The router that attacks of relative harm compare it with; null: none.
    """

    def __init__(self, env: RoutingEnv, victim: Policy, reference: Policy | None = None) -> None:
        self.env, self.victim, self._reference = env, victim, reference
        self._clean: dict[int, tuple[Floats, Rollout]] = {}
        self._referred: dict[int, Floats] = {}

    @property
    def num_instances(self) -> int:
        """Of the fleet."""
        return len(self.env.cluster.traits)

    def clean(self, seed: int) -> Floats:
        """Losses of the victim in peace, ``[num_decisions]``."""
        return self._in_peace(seed)[0]

    def clean_rollout(self, seed: int) -> Rollout:
        """What the victim did in peace."""
        return self._in_peace(seed)[1]

    def reference(self, seed: int) -> Floats:
        """Losses of the reference router, ``[num_decisions]``; all 0 where there is none."""
        if self._reference is None:
            return np.zeros(0)
        if seed not in self._referred:
            self._referred[seed], _ = self._played(deepcopy(self._reference), seed)
        return self._referred[seed]

    def forget(self) -> None:
        """Forget what was played in peace, where its seeds will not come again."""
        self._clean.clear()
        self._referred.clear()

    def knobs(self, threat: FeatureThreat) -> tuple[Knob, ...]:
        """The threat's knobs in this fleet."""
        return threat.knobs(self.num_instances)

    def deceived(self, threat: FeatureThreat, liar: Attacker, keep_looks: bool = False) -> Deceived:
        """A copy of the victim as it is before any episode, deceived in this environment."""
        env, victim = self.env, deepcopy(self.victim)
        return Deceived(
            per_router(victim, env),
            threat,
            liar(victim) if callable(liar) else liar,
            lambda: env.cluster.now_s,
            self.num_instances,
            keep_looks,
        )

    def attacked(self, threat: FeatureThreat, liar: Attacker, seed: int) -> Attacked:
        """Let ``liar`` deceive the victim in the episode of this seed, and compare that with peace."""
        waited_s, trace, rollout = self.attacked_alone(threat, liar, seed)
        num_decisions = len(waited_s)
        losses = Losses(
            (rollout.ledger["num_retries"] == 0).to_numpy(np.int64),
            waited_s,
            aligned(self.reference(seed), num_decisions),
            aligned(self.clean(seed), num_decisions),
        )
        return Attacked(losses, trace, rollout)

    def attacked_alone(
        self, threat: FeatureThreat, liar: Attacker, seed: int
    ) -> tuple[Floats, AttackTrace, Rollout]:
        """The same without an episode in peace: its losses ``[num_decisions]``, and what was done."""
        victim = self.deceived(threat, liar)
        waited_s, rollout = self._playing(victim, seed)
        return waited_s, victim.trace({"world_seed": seed}), rollout

    def _in_peace(self, seed: int) -> tuple[Floats, Rollout]:
        if seed not in self._clean:
            self._clean[seed] = self._played(deepcopy(self.victim), seed)
        return self._clean[seed]

    def _played(self, policy: Policy, seed: int) -> tuple[Floats, Rollout]:
        return self._playing(per_router(policy, self.env), seed)

    def _playing(self, policy: Policy, seed: int) -> tuple[Floats, Rollout]:
        with waiting_noted(self.env) as waited_s:
            policy.reset(policy_rng(seed))
            rollout = finish(self.env, policy, replay(self.env, seed, (), ()))
        return np.array(waited_s), rollout


def aligned(losses: Floats, num_decisions: int) -> Floats:
    """Losses of another episode on the same stream, decision by decision.

    Where that had more decisions, as requests that failed were sent again, the last one bears their losses.
    """
    held = np.zeros(num_decisions)
    held[: len(losses)] = losses[:num_decisions]
    held[-1] += losses[num_decisions:].sum()
    return held


@contextmanager
def waiting_noted(env: RoutingEnv) -> Iterator[list[float]]:
    """Note the request-seconds waited after each decision, whatever the environment's reward is."""
    reward = env.reward
    waited_s: list[float] = []

    def note(interval: Interval) -> tuple[float, dict[str, float]]:
        waited_s.append(interval.waiting_request_s)
        return reward(interval)

    env.reward = note  # type: ignore[assignment]
    try:
        yield waited_s
    finally:
        env.reward = reward
