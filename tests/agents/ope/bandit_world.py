"""A fleet whose every cost is known: contexts come in waves, costs are linear in what is seen, plus noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agents.ope.logged import Logged
from envs import observation as table
from envs.observation import ENCODED_NAMES, INSTANCE_FEATURES, REQUEST_FEATURES, encode

NUM_INSTANCES = 3
WAVE = 0.8
"""Correlation of one decision's waiting counts with the next one's."""
WEIGHTS = np.array(
    [{"num_waiting": 0.5, "prefill_tokens_per_s": -0.2}.get(name, 0.0) for name in ENCODED_NAMES]
)


class World(NamedTuple):
    """Recorded decisions, and what each instance would have cost and would have been chosen with."""

    logged: Logged
    mean_cost: np.ndarray
    """``[num_decisions, num_instances]``."""
    target: np.ndarray
    """Propensities of a policy that prefers short queues more than the recorded one, likewise."""

    @property
    def truth(self):
        """What the policy would cost over these very contexts."""
        return float((self.target * self.mean_cost).sum(axis=1).mean())


def softmax(values):
    chances = np.exp(values - values.max(axis=-1, keepdims=True))
    return chances / chances.sum(axis=-1, keepdims=True)


def world(seed, num_decisions=1000, num_episodes=1, noise=0.2):
    """A recording by a softmax policy."""
    rng = np.random.default_rng(seed)
    waves = np.zeros((num_decisions, NUM_INSTANCES))
    for row in range(1, num_decisions):
        waves[row] = WAVE * waves[row - 1] + np.sqrt(1 - WAVE**2) * rng.standard_normal(NUM_INSTANCES)
    instances = np.zeros((num_decisions, NUM_INSTANCES, len(INSTANCE_FEATURES)), np.float32)
    instances[:, :, table.NUM_WAITING] = np.rint(np.exp(1 + waves))
    instances[:, :, table.PREFILL_TOKENS_PER_S] = [4000, 15000, 30000]
    request = np.zeros((num_decisions, len(REQUEST_FEATURES)), np.float32)
    mask = np.ones((num_decisions, NUM_INSTANCES), np.int8)
    mean_cost = 2.0 + encode(instances, request, mask) @ WEIGHTS
    waiting = instances[:, :, table.NUM_WAITING].astype(float)
    propensities = softmax(-0.2 * waiting)
    instance = (rng.random((num_decisions, 1)) > propensities.cumsum(axis=1)).sum(axis=1)
    chosen = mean_cost[np.arange(num_decisions), instance]
    logged = Logged(
        episode=np.arange(num_decisions) * num_episodes // num_decisions,
        decision_id=np.arange(num_decisions),
        router=np.zeros(num_decisions, np.int64),
        instance=instance,
        instances=instances,
        request=request,
        mask=mask,
        propensities=propensities,
        cost=chosen + noise * rng.uniform(-1, 1, num_decisions),
    )
    return World(logged, mean_cost, softmax(-1.0 * waiting))
