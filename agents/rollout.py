"""One policy routes one request stream; what came of every request is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from agents.defences.defence import learns
from agents.per_router import per_router
from agents.policy import Foreseeing, Policy
from envs.feedback import Feedback
from envs.live.recorder import Recorder
from envs.observation import Observation
from envs.routing import RoutingEnv

LEDGER_COLUMNS = (
    "decision_id",
    "instance",
    "propensity",
    "tenant",
    "arrived_at_s",
    "num_prompt_tokens",
    "num_output_tokens",
    "num_cached_tokens",
    "num_preemptions",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "slo_met",
    "failure",
    "num_retries",
    "is_retried",
)
"""Columns of a ledger, one row per decision; times in seconds. A request that was sent again has as many rows
as it had decisions; the last of them, not ``is_retried``, says what became of it."""


@dataclass(frozen=True)
class Rollout:
    """An episode's outcome."""

    ledger: pd.DataFrame
    """``LEDGER_COLUMNS``."""
    counters: Mapping[str, int]
    """The policy's own: fallbacks, exploration."""
    decision_s: np.ndarray[Any, np.dtype[np.float64]]
    """Time that each decision took on this machine, ``[num_decisions]``; replayed ones are left out."""


@dataclass
class Begun:
    """An episode under way."""

    observation: Observation
    done: bool = False
    instances: list[int] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)
    outcomes: list[Feedback] = field(default_factory=list)

    def step(self, env: RoutingEnv, instance: int, propensity: float) -> list[Feedback]:
        """Route the current request; return what became known of earlier ones."""
        env.declare_propensity(propensity)
        self.observation, _, self.done, _, info = env.step(instance)
        self.instances.append(instance)
        self.propensities.append(propensity)
        self.outcomes.extend(info["completions"])
        known: list[Feedback] = info["completions"]
        return known

    def ledger(self) -> pd.DataFrame:
        """What became known so far: ``LEDGER_COLUMNS``, in the order of the decisions."""
        ledger = pd.DataFrame.from_records(self.outcomes, columns=list(Feedback._fields))
        return ledger.sort_values("decision_id", ignore_index=True)[list(LEDGER_COLUMNS)]


def policy_rng(seed: int) -> np.random.Generator:
    """A policy's own chance in the episode of this seed: not the workload's, and alike for all policies."""
    return np.random.default_rng(np.random.SeedSequence((seed, 1)))


def replay(env: RoutingEnv, seed: int, instances: Sequence[int], propensities: Sequence[float]) -> Begun:
    """Begin the episode of ``seed`` with decisions made before; none of them: at its start."""
    begun = Begun(env.reset(seed=seed)[0])
    for instance, propensity in zip(instances, propensities, strict=True):
        begun.step(env, instance, propensity)
    return begun


def finish(
    env: RoutingEnv,
    policy: Policy,
    begun: Begun,
    after_decision: Callable[[Sequence[int], Sequence[float]], None] | None = None,
    recorder: Recorder | None = None,
    num_learned: int | None = None,
) -> Rollout:
    """Let ``policy`` route the rest of an episode.

    ``after_decision`` is called after each with the episode's instances and propensities so far. A
    ``recorder``, whose episode has begun, changes nothing of this; ``num_learned`` tells it how many outcomes
    the policy had learned from before the episode, null: it learns nothing.
    """
    decision_s: list[float] = []
    while not begun.done:
        began_s = perf_counter()
        decision = policy.act(begun.observation)
        decision_s.append(perf_counter() - began_s)
        if recorder is not None:
            recorder.decided(
                env.request,
                begun.observation,
                decision.instance,
                decision.propensities,
                decision.scores,
                env.cluster.now_s,
                env.router,
                0 if num_learned is None else num_learned + len(begun.outcomes),
            )
        known = begun.step(env, decision.instance, decision.propensity)
        if recorder is not None:
            recorder.learned(known, env.cluster.now_s, begun.done)
        policy.observe(known)
        if after_decision is not None:
            after_decision(begun.instances, begun.propensities)
    return Rollout(begun.ledger(), dict(policy.counters()), np.array(decision_s))


def play(env: RoutingEnv, policy: Policy, seed: int, recorder: Recorder | None = None) -> Rollout:
    """Let ``policy`` route the stream of ``seed`` from its start to its end; a copy of it per router.

    One that foresees does so before; it stands for all routers.
    """
    if isinstance(policy, Foreseeing):
        policy.foresee(env, seed)
    return play_foreseen(env, policy, seed, recorder)


def play_foreseen(env: RoutingEnv, policy: Policy, seed: int, recorder: Recorder | None = None) -> Rollout:
    """``play`` of a policy that has foreseen the stream of ``seed``, if it is one that does."""
    num_learned = 0 if learns(policy) else None
    if not isinstance(policy, Foreseeing):
        policy = per_router(policy, env)
    policy.reset(policy_rng(seed))
    if recorder is not None:
        recorder.begin_episode(seed)
    return finish(env, policy, replay(env, seed, (), ()), None, recorder, num_learned)
