"""An episode as it shows itself in hindsight: its requests, and what befell its instances."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.metrics import requests_of
from agents.policy import Decision, Policy
from agents.rollout import finish, policy_rng, replay
from envs.cluster import Request
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.disturbed import UP, DisturbedCluster
from envs.emulator.what_if import LOST_S
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import RoutingEnv
from envs.world import World

Plan = Mapping[Hashable, int]
"""Name of a request (``name_of``) -> the instance that it goes to."""


class Episode(NamedTuple):
    """One play of an episode; rows are requests, in the order of their first decisions."""

    requests: list[Request]
    names: list[Hashable]
    instances: NDArray[np.int64]
    """Where each was sent at first, ``[num_requests]``."""
    allowed: NDArray[np.bool_]
    """Where each could have gone at first, ``[num_requests, num_instances]``."""
    ttft_s: NDArray[np.float64]
    """What came of it, ``[num_requests]``; ``LOST_S`` where nothing did."""

    @property
    def cost_s(self) -> float:
        """The mean TTFT; the sum is not comparable where a cap on requests ends a closed loop."""
        return float(self.ttft_s.mean())

    @property
    def plan(self) -> Plan:
        """The decisions, to be made again."""
        return dict(zip(self.names, self.instances.tolist(), strict=True))


def name_of(env: RoutingEnv, request: Request) -> Hashable:
    """What stands for the same request in every play of an episode.

    In closed loop that is its session and turn: which request comes first there depends on the decisions.
    """
    return (request.session_id, request.turn) if env.workload.closed_loop else request.request_id


def require_emulated(env: RoutingEnv) -> EmulatedCluster:
    """The cluster. Raises ``ValueError`` where it, or its world, cannot be foreseen."""
    cluster = env.cluster
    if not isinstance(cluster, EmulatedCluster):
        raise ValueError(
            f"the cluster is a {type(cluster).__name__}: only an emulated one can be played again and again;"
            " take the clairvoyant out, or set an emulated cluster"
        )
    if isinstance(cluster, DisturbedCluster) and cluster.world.mean_time_to_failure_s is not None:
        raise ValueError(
            "the world's failures are left to chance (mean_time_to_failure_s): a clairvoyant foresees those"
            " that a schedule says; write them down in one"
        )
    return cluster


def world_of(cluster: EmulatedCluster) -> World:
    """What goes wrong there."""
    return cluster.world if isinstance(cluster, DisturbedCluster) else World()


class Planned:
    """Follows a plan, and a rule where there is none or it cannot be followed; notes what it is asked.

    Args:
        env: Where it plays.
        plan: What it follows.
        rule: Decides about other requests, about those whose instance is masked, and about those that
            failed and come again.
    """

    def __init__(self, env: RoutingEnv, plan: Plan, rule: Policy) -> None:
        self._env, self._plan, self._rule = env, plan, rule

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rule.reset(rng)
        self.asked: dict[Hashable, tuple[Request, NDArray[np.bool_]]] = {}
        """Name -> the request, and where it could have gone at first."""
        self.went: dict[Hashable, int] = {}
        self.decided: list[Hashable] = []
        self.num_by_rule = 0

    def act(self, observation: Observation) -> Decision:
        """Decide."""
        request, mask = self._env.request, observation["mask"].astype(np.bool_)
        name = name_of(self._env, request)
        # The rule is asked in any case, so that it counts its decisions as the episode does.
        decision = self._rule.act(observation)
        planned = self._plan.get(name)
        if planned is not None and mask[planned] and name not in self.asked:
            chosen = np.zeros(len(mask))
            chosen[planned] = 1.0
            decision = Decision(planned, chosen, np.where(mask, chosen, -np.inf))
        else:
            self.num_by_rule += 1
        if name not in self.asked:
            self.asked[name] = request, mask[: len(self._env.cluster.traits)] & _serving(self._env)
            self.went[name] = decision.instance
        self.decided.append(name)
        return decision

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Let the rule learn."""
        self._rule.observe(completions)

    def counters(self) -> Mapping[str, int]:
        """How many decisions were the rule's, and its own counters."""
        return {**self._rule.counters(), "fallback_rule": self.num_by_rule}


def _serving(env: RoutingEnv) -> NDArray[np.bool_]:
    """Which instances serve, whatever the router has learned of it."""
    cluster = env.cluster
    if not isinstance(cluster, DisturbedCluster):
        return np.ones(len(cluster.traits), np.bool_)
    return np.array([status == UP for status in cluster.statuses])


def play_plan(env: RoutingEnv, seed: int, plan: Plan, rule: Policy) -> Episode:
    """Play an episode by a plan, and by a rule where that says nothing."""
    planned = Planned(env, plan, rule)
    planned.reset(policy_rng(seed))
    ledger = requests_of(finish(env, planned, replay(env, seed, (), ())).ledger)
    names = list(planned.asked)
    rows = {name: row for row, name in enumerate(names)}
    ttft_s = np.full(len(names), LOST_S)
    served = ledger[ledger["failure"] == ""]
    places = [rows[planned.decided[decision]] for decision in served["decision_id"]]
    ttft_s[places] = served["ttft_s"]
    return Episode(
        requests=[request for request, _ in planned.asked.values()],
        names=names,
        instances=np.array([planned.went[name] for name in names], np.int64),
        allowed=np.array([allowed for _, allowed in planned.asked.values()]),
        ttft_s=ttft_s,
    )
