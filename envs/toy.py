"""Tiny routing problems whose optimum is known: each agent proves on them, within seconds, that it learns.

They have the spaces, the masks, the errors and the feedback of the routing environment, so every agent runs
on them unchanged; but they are bandits and queues of a few lines, and emulate no cluster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.feedback import Feedback
from envs.observation import (
    ARRIVALS_PER_S,
    FRAC_PREFIX_HIT,
    INSTANCE_FEATURES,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_PREFILLS,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_PROMPT_TOKENS,
    NUM_UNCACHED_TOKENS,
    PREFILL_TOKENS_PER_S,
    PREFIX_CACHING,
    REQUEST_FEATURES,
    SESSION_KEY,
    TURN,
    Observation,
    observation_space,
)

TICK_S = 0.1
"""Time between two requests."""
BANDIT_PROMPT_TOKENS = 1024


class ToyRouting(gym.Env[Any, np.int64], ABC):
    """What the toys share: spaces, masks, errors and feedback.

    Args:
        num_instances: instances in the fleet.
        max_instances: rows of an observation; those beyond ``num_instances`` are masked. None: no more rows.
        num_decisions: requests in an episode.
    """

    def __init__(self, num_instances: int, max_instances: int | None, num_decisions: int) -> None:
        if num_instances < 2:
            raise ValueError(
                f"num_instances is {num_instances}, it must be at least 2: else nothing is decided"
            )
        if max_instances is not None and max_instances < num_instances:
            raise ValueError(
                f"max_instances is {max_instances}, below num_instances, which is {num_instances}"
            )
        if num_decisions < 1:
            raise ValueError(f"num_decisions is {num_decisions}, it must be at least 1")
        self.num_instances = num_instances
        self.max_instances = max_instances or num_instances
        self.num_decisions = num_decisions
        self.observation_space = observation_space(self.max_instances)
        self.action_space = spaces.Discrete(self.max_instances)

    @property
    @abstractmethod
    def optimal_return(self) -> float:
        """Highest return that an episode can have."""

    @abstractmethod
    def optimal_action(self) -> int:
        """An instance that the present request may go to without loss of return."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin an episode and let its first request arrive."""

    @abstractmethod
    def _route(self, instance: int, is_last: bool) -> tuple[float, list[Feedback]]:
        """Send the present request there and let the next one arrive."""

    @abstractmethod
    def _observation(self) -> Observation: ...

    def action_masks(self) -> NDArray[np.bool_]:
        """Where the present request may go, ``[max_instances]``."""
        return np.arange(self.max_instances) < self.num_instances

    def declare_propensity(self, propensity: float) -> None:
        """Say with which probability the next action was chosen; its feedback will carry it."""
        self._propensity = propensity

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._num_decided = 0
        self._propensity = np.nan
        self._begin()
        return self._observation(), {"completions": []}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Send the present request to instance ``action``. Raises ``ValueError`` where it is masked."""
        instance = int(action)
        if not (0 <= instance < self.max_instances and self.action_masks()[instance]):
            raise ValueError(
                f"instance {instance} is masked: valid are {np.flatnonzero(self.action_masks())}"
            )
        is_last = self._num_decided + 1 == self.num_decisions
        reward, completions = self._route(instance, is_last)
        self._num_decided += 1
        self._propensity = np.nan
        return self._observation(), reward, is_last, False, {"completions": completions}

    def _feedback(self, instance: int, num_tokens: int, num_cached: int, ttft_s: float) -> Feedback:
        """What is fed back of the present request."""
        return Feedback(
            decision_id=self._num_decided,
            propensity=self._propensity,
            instance=instance,
            num_prompt_tokens=num_tokens,
            num_output_tokens=1,
            num_cached_tokens=num_cached,
            num_preemptions=0,
            arrived_at_s=self._num_decided * TICK_S,
            ttft_s=ttft_s,
            tpot_s=0.0,
            e2e_s=ttft_s,
            slo_met=True,
            tenant=0,
            failure="",
        )

    def _blank(self, num_prompt_tokens: int) -> Observation:
        """An observation with all instances idle."""
        instances = np.zeros((self.max_instances, len(INSTANCE_FEATURES)), np.float32)
        instances[: self.num_instances, NUM_UNCACHED_TOKENS] = num_prompt_tokens
        request = np.zeros(len(REQUEST_FEATURES), np.float32)
        request[NUM_PROMPT_TOKENS] = num_prompt_tokens
        request[TURN] = 1
        request[ARRIVALS_PER_S] = 1 / TICK_S
        request[SESSION_KEY] = -1
        return {"instances": instances, "request": request, "mask": self.action_masks().astype(np.int8)}


class FasterInstance(ToyRouting):
    """A contextual bandit: who is fastest is read off one column, and drawn anew for each request.

    The speeds are spread geometrically from 1,000 to 8,000 tokens/s. A request's reward is minus its TTFT,
    given at once, and depends on nothing that was decided before. Optimum: always the fastest instance.
    """

    _num_masked = 0

    def __init__(
        self, num_instances: int = 4, max_instances: int | None = None, num_decisions: int = 32
    ) -> None:
        super().__init__(num_instances, max_instances, num_decisions)
        self._ttfts_s = BANDIT_PROMPT_TOKENS / np.geomspace(8000, 1000, num_instances)

    @property
    def optimal_return(self) -> float:
        """Return of always choosing the fastest valid instance."""
        return float(-self.num_decisions * self._ttfts_s[self._num_masked :].min())

    @property
    def random_return(self) -> float:
        """Expected return of choosing uniformly among the valid instances."""
        return float(-self.num_decisions * self._ttfts_s[self._num_masked :].mean())

    def optimal_action(self) -> int:
        """The fastest valid instance."""
        return int(np.flatnonzero(self._ranks == self._num_masked)[0])

    def action_masks(self) -> NDArray[np.bool_]:
        """All instances, but for the ``_num_masked`` fastest."""
        mask = super().action_masks()
        mask[: self.num_instances] = self._ranks >= self._num_masked
        return mask

    def _begin(self) -> None:
        self._ranks = self.np_random.permutation(self.num_instances)

    def _route(self, instance: int, is_last: bool) -> tuple[float, list[Feedback]]:
        ttft_s = float(self._ttfts_s[self._ranks[instance]])
        feedback = self._feedback(instance, BANDIT_PROMPT_TOKENS, 0, ttft_s)
        self._begin()
        return -ttft_s, [feedback]

    def _observation(self) -> Observation:
        observation = self._blank(BANDIT_PROMPT_TOKENS)
        speeds = BANDIT_PROMPT_TOKENS / self._ttfts_s[self._ranks]
        observation["instances"][: self.num_instances, PREFILL_TOKENS_PER_S] = speeds
        return observation


class Masked(FasterInstance):
    """``FasterInstance`` with the fastest instance masked. Optimum: always the second fastest."""

    _num_masked = 1


TICK_TOKENS = 512
"""Tokens that an instance of ``Backlog`` computes between two requests."""
NUM_TICKS_COLD, NUM_TICKS_CACHED = 3, 2


class _Outstanding(NamedTuple):
    feedback: Feedback
    num_ticks_left: int


class Backlog(ToyRouting):
    """A deterministic queue where going after the prefix cache is myopic.

    Requests arrive one a tick and take 3 ticks of work; the instance that holds their common prefix, drawn
    for each episode, takes 2. Sent all to the latter, they queue without bound. As in the routing
    environment, the reward of a step is minus the integral of the number of requests waiting for their first
    token until the next decision (after the last one: until all are served), so a return is minus the sum of
    the TTFTs, and a choice is paid for later. Optimum: by dynamic programming over the instances' backlogs;
    joining the least backlog, and among equals the instance that holds the prefix, attains it.
    """

    def __init__(
        self, num_instances: int = 3, max_instances: int | None = None, num_decisions: int = 24
    ) -> None:
        super().__init__(num_instances, max_instances, num_decisions)
        self._idle = (0,) * (num_instances - 1)

    @property
    def optimal_return(self) -> float:
        """By dynamic programming from an empty fleet."""
        return -_least_ticks(0, self._idle, self.num_decisions) * TICK_S

    def optimal_action(self) -> int:
        """By dynamic programming from the present backlogs."""
        num_left = self.num_decisions - self._num_decided
        return min(range(self.num_instances), key=lambda instance: self._ticks_if_sent(instance, num_left))

    def _ticks_if_sent(self, instance: int, num_left: int) -> int:
        backlogs = self._backlogs.copy()
        backlogs[instance] += self._works[instance]
        ttft_ticks = int(backlogs[instance])
        backlogs = np.maximum(backlogs - 1, 0)
        others = tuple(sorted(int(ticks) for ticks in np.delete(backlogs, self._cached)))
        return ttft_ticks + _least_ticks(int(backlogs[self._cached]), others, num_left - 1)

    def _begin(self) -> None:
        self._cached = int(self.np_random.integers(self.num_instances))
        self._works = np.full(self.num_instances, NUM_TICKS_COLD)
        self._works[self._cached] = NUM_TICKS_CACHED
        self._backlogs = np.zeros(self.num_instances, np.int64)
        self._outstanding: list[_Outstanding] = []

    def _route(self, instance: int, is_last: bool) -> tuple[float, list[Feedback]]:
        self._backlogs[instance] += self._works[instance]
        ttft_ticks = int(self._backlogs[instance])
        num_tokens = NUM_TICKS_COLD * TICK_TOKENS
        num_cached = num_tokens - int(self._works[instance]) * TICK_TOKENS
        feedback = self._feedback(instance, num_tokens, num_cached, ttft_ticks * TICK_S)
        self._outstanding.append(_Outstanding(feedback, ttft_ticks))

        num_ticks = max(request.num_ticks_left for request in self._outstanding) if is_last else 1
        waited_ticks = sum(min(request.num_ticks_left, num_ticks) for request in self._outstanding)
        completions = [r.feedback for r in self._outstanding if r.num_ticks_left <= num_ticks]
        self._outstanding = [
            _Outstanding(r.feedback, r.num_ticks_left - num_ticks)
            for r in self._outstanding
            if r.num_ticks_left > num_ticks
        ]
        self._backlogs = np.maximum(self._backlogs - num_ticks, 0)
        return -waited_ticks * TICK_S, completions

    def _observation(self) -> Observation:
        observation = self._blank(NUM_TICKS_COLD * TICK_TOKENS)
        fleet = observation["instances"][: self.num_instances]
        num_in_flight = np.bincount(
            [request.feedback.instance for request in self._outstanding], minlength=self.num_instances
        )
        fleet[:, NUM_IN_FLIGHT] = fleet[:, NUM_IN_FLIGHT_PREFILLS] = num_in_flight
        fleet[:, NUM_IN_FLIGHT_UNCACHED_TOKENS] = self._backlogs * TICK_TOKENS
        fleet[:, NUM_UNCACHED_TOKENS] = self._works * TICK_TOKENS
        fleet[self._cached, FRAC_PREFIX_HIT] = 1 - NUM_TICKS_CACHED / NUM_TICKS_COLD
        fleet[:, PREFILL_TOKENS_PER_S] = TICK_TOKENS / TICK_S
        fleet[:, PREFIX_CACHING] = 1
        return observation


@cache
def _least_ticks(cached: int, others: tuple[int, ...], num_left: int) -> int:
    """Least sum of TTFTs of the ``num_left`` requests to come, in ticks.

    Args:
        cached: backlog of the instance that holds the prefix.
        others: backlogs of the other instances, ascending.
        num_left: requests to come.
    """
    if num_left == 0:
        return 0
    drained = tuple(max(ticks - 1, 0) for ticks in others)
    done = cached + NUM_TICKS_CACHED
    least = done + _least_ticks(done - 1, drained, num_left - 1)
    for index, backlog in enumerate(others):
        done = backlog + NUM_TICKS_COLD
        joined = tuple(sorted((*drained[:index], done - 1, *drained[index + 1 :])))
        least = min(least, done + _least_ticks(max(cached - 1, 0), joined, num_left - 1))
    return least
