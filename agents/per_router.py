"""Several routers run the same policy, each with a memory of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import numpy as np

from agents.policy import Decision, Policy
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import RoutingEnv


def per_router(policy: Policy, env: RoutingEnv) -> Policy:
    """The policy, or where there are several routers a copy for each."""
    return policy if env.num_routers == 1 else PerRouter(policy, env.num_routers, lambda: env.router)


class PerRouter:
    """A copy of a policy for each router: it decides what lands there and learns of nothing else.

    So eight routers that go round robin each begin with the first instance, and eight that learn each go on
    by themselves from what was learned before. The policy itself is left as it is.

    Args:
        policy: What all of them run; it is copied.
        num_routers: Of the environment.
        router: Tells on which router the request landed that is to be decided now.
    """

    def __init__(self, policy: Policy, num_routers: int, router: Callable[[], int]) -> None:
        self._policies = [deepcopy(policy) for _ in range(num_routers)]
        self._router = router
        self._decisions: list[tuple[int, int]] = []  # of all: router, which decision of that router
        self._num_decided = [0] * num_routers

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; every router has its own chance."""
        for policy, own_rng in zip(self._policies, rng.spawn(len(self._policies)), strict=True):
            policy.reset(own_rng)
        self._decisions.clear()
        self._num_decided = [0] * len(self._policies)

    def act(self, observation: Observation) -> Decision:
        """Let the router decide on which the request landed."""
        router = self._router()
        decision = self._policies[router].act(observation)
        self._decisions.append((router, self._num_decided[router]))
        self._num_decided[router] += 1
        return decision

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Let each router learn how its own decisions fared, by its own count of them."""
        outcomes: list[list[Feedback]] = [[] for _ in self._policies]
        for feedback in completions:
            router, decision_id = self._decisions[feedback.decision_id]
            outcomes[router].append(feedback._replace(decision_id=decision_id))
        for policy, known in zip(self._policies, outcomes, strict=True):
            policy.observe(known)

    def counters(self) -> Mapping[str, int]:
        """Those of all routers together."""
        total: Counter[str] = Counter()
        for policy in self._policies:
            total.update(dict(policy.counters()))
        return dict(total)
