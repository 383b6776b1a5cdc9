"""A router with hindsight: how good could routing have been?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import numpy as np

from agents.bound.episode import Planned, play_plan, require_emulated
from agents.bound.floor import least_mean_ttft_s
from agents.bound.search import Search
from agents.hyperparameters import check_counts, check_range
from agents.per_router import per_router
from agents.policy import Decision, Policy
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import RoutingEnv


class Bracket(NamedTuple):
    """What the best mean TTFT of an episode lies between, and what a rule made of it; over all requests.

    One that fails for good counts ``LOST_S`` (``envs.emulator.what_if``).
    """

    floor_s: float
    """No assignment has less (``agents.bound.floor``)."""
    found_s: float
    """The clairvoyant's: the best assignment found. What is less than this may exist."""
    rule_s: float
    """The best rule's of those that it began with."""


class Clairvoyant:
    """Plays an episode by some rules, searches for better decisions than the best's, and makes those.

    It knows what no router does: which requests will come, how long their answers are, what each cache holds
    and what will go wrong. What it reaches is therefore a mark for routers that learn, and none of them is
    to be expected there. It is not the optimum: ``agents.bound.search`` finds a good assignment, which is one
    that exists, so that the least mean TTFT possible is this or less. It is never worse than its rules, since
    the best one's own decisions are kept where nothing better was found.

    It looks at the mean TTFT of all requests, nothing else: not at tails, nor at the time per output token,
    which it gives away where that helps.

    The emulation that it searches with is exact, to the last bit, for open-loop streams, with every world but
    one that leaves delays to chance (``network_jitter_s``), and without ``max_retries``; there the episode
    comes out as foreseen. Otherwise it searches with the arrivals of the best play so far, plays what it
    found, and does so again while that helps, at most ``max_rounds`` times.

    Args:
        rules: Name -> what it may begin with; learners are rules too. The one of least mean TTFT also decides
            where the plan cannot be followed: about requests that failed and come again, and in closed loop
            where an instance is masked by then.
        max_placed: How often one search looks for the best place of a request, in all. A first sweep over
            all requests builds a plan from nothing, others improve it as long as they gain ``min_gain``. What
            is left goes to windows of requests in a row, drawn at random, of which a random share is taken
            out of the plan first, or sent anywhere; what comes of it is kept if it helps.
        min_gain: Share of the mean TTFT.
        window: Requests in such a window.
        lookahead: First tokens that a move is judged by, see ``Search``.
        num_candidates: Instances that are looked at for one request, see ``Search``.
        max_rounds: See above.
    """

    def __init__(
        self,
        rules: Mapping[str, Policy],
        max_placed: int = 15_000,
        min_gain: float = 0.002,
        window: int = 100,
        lookahead: int = 8,
        num_candidates: int = 8,
        max_rounds: int = 3,
    ) -> None:
        check_counts(
            max_placed=max_placed,
            window=window,
            lookahead=lookahead,
            num_candidates=num_candidates,
            max_rounds=max_rounds,
        )
        check_range(0.0, 1.0, min_gain=min_gain)
        if not rules:
            raise ValueError("rules: there is none to begin with; give at least one")
        self._rules = dict(rules)
        self._max_placed, self._min_gain, self._window = max_placed, min_gain, window
        self._lookahead, self._num_candidates = lookahead, num_candidates
        self._max_rounds = max_rounds
        self._planned: Planned | None = None
        self.bracket: Bracket | None = None
        """Of the episode that was foreseen last."""

    def foresee(self, env: RoutingEnv, seed: int) -> None:
        """Find good decisions for the episode of a seed; plays it several times.

        Raises ``ValueError`` where the cluster is not emulated or its failures are left to chance.
        """
        cluster = require_emulated(env)
        begins = [partial(_fresh, rule, env) for rule in self._rules.values()]
        firsts = [(play_plan(env, seed, {}, begin()), begin) for begin in begins]
        first, begin = min(firsts, key=lambda each: each[0].cost_s)
        best = first
        rng = np.random.default_rng(np.random.SeedSequence((seed, 2)))  # neither the stream's nor a policy's
        for _ in range(self._max_rounds):
            found = self._search(Search(cluster, best, self._lookahead, self._num_candidates), rng)
            played = play_plan(env, seed, best._replace(instances=found.plan).plan, begin())
            is_foreseen = np.array_equal(played.ttft_s, found.ttft_s)
            if played.cost_s >= best.cost_s:
                break
            best = played
            if is_foreseen:
                break
        self._planned = Planned(env, best.plan, begin())
        floor_s = least_mean_ttft_s(cluster, best, env.workload.closed_loop)
        self.bracket = Bracket(floor_s, best.cost_s, first.cost_s)

    def _search(self, search: Search, rng: np.random.Generator) -> Search:
        num_requests = len(search.plan)
        search.improve(range(num_requests))
        num_left = self._max_placed - num_requests
        while num_left >= num_requests:
            num_left -= num_requests
            if search.improve() < self._min_gain:
                break
        window = min(self._window, num_requests)
        while num_left >= window:
            num_left -= window
            first = int(rng.integers(num_requests - window + 1))
            numbers = first + np.flatnonzero(rng.random(window) < rng.random())
            search.improve(numbers, rng if rng.random() < 0.5 else None, first, first + window)
        return search

    def reset(self, rng: np.random.Generator) -> None:
        """Begin the episode that was foreseen."""
        self._followed().reset(rng)

    def act(self, observation: Observation) -> Decision:
        """Make the decision that was found."""
        return self._followed().act(observation)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Let the rule learn."""
        self._followed().observe(completions)

    def counters(self) -> Mapping[str, int]:
        """``fallback_rule``: decisions that the rule made; and the rule's own."""
        return self._followed().counters()

    def _followed(self) -> Planned:
        if self._planned is None:
            raise RuntimeError(
                "Clairvoyant: call foresee(env, seed) before the episode (agents.rollout.play does)"
            )
        return self._planned


def _fresh(rule: Policy, env: RoutingEnv) -> Policy:
    """The rule, or one for each router, as it was given: what it learned in a play before is forgotten."""
    return per_router(deepcopy(rule), env)
