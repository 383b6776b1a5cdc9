"""A router with hindsight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np

from agents.bound.episode import Episode, Planned, play_plan, require_emulated
from agents.bound.search import Search
from agents.hyperparameters import check_counts
from agents.per_router import per_router
from agents.policy import Decision, Policy
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import RoutingEnv


class Clairvoyant:
    """Plays an episode, searches for what would have been better, and plays that."""

    def __init__(
        self, rule: Policy, max_sweeps: int = 20, lookahead: int = 32, max_rounds: int = 3
    ) -> None:
        check_counts(max_sweeps=max_sweeps, lookahead=lookahead, max_rounds=max_rounds)
        self._rule = rule
        self._max_sweeps, self._lookahead, self._max_rounds = max_sweeps, lookahead, max_rounds
        self._planned: Planned | None = None

    def foresee(self, env: RoutingEnv, seed: int) -> None:
        """Play the episode of a seed, as often as it takes, and remember the best decisions found."""
        cluster = require_emulated(env)
        rule = per_router(deepcopy(self._rule), env)
        best = play_plan(env, seed, {}, rule)
        for _ in range(self._max_rounds):
            search = Search(cluster, best, self._lookahead)
            for _ in range(self._max_sweeps):
                if not search.sweep():
                    break
            played = play_plan(env, seed, best._replace(instances=search.plan).plan, rule)
            if played.cost_s >= best.cost_s:
                break
            best = played
            if not env.workload.closed_loop:
                break
        self._planned = Planned(env, best.plan, rule)
