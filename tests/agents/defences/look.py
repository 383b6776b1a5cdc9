"""Observations built by hand, and a policy that notes what it is shown."""

import numpy as np

from agents.policy import Decision, valid_instances
from envs import observation as columns


def look(num_instances=3, mask=None, **instance_columns):
    """An observation of zeros but for these columns, one value for each instance or for all."""
    instances = np.zeros((num_instances, len(columns.INSTANCE_FEATURES)), np.float32)
    instances[:, columns.PREFILL_TOKENS_PER_S] = 10_000
    instances[:, columns.DECODE_STEP_S] = 0.01
    instances[:, columns.NUM_KV_CACHE_TOKENS] = 100_000
    for name, values in instance_columns.items():
        instances[:, getattr(columns, name.upper())] = values
    request = np.array([1000, 1, 0, 5, -1], np.float32)
    valid = np.ones(num_instances, np.int8) if mask is None else np.array(mask, np.int8)
    return {"instances": instances, "request": request, "mask": valid}


def column(observation, name):
    return observation["instances"][:, getattr(columns, name.upper())].tolist()


class Witness:
    """Chooses the instance it is told to, or the first valid one; notes what it is shown and told."""

    def __init__(self):
        self.choice = None
        self.score = 0.0
        self.error = None
        self.told = []

    def reset(self, rng):
        self.chance = rng.random()
        self.seen = None

    def act(self, observation):
        if self.error is not None:
            raise self.error
        self.seen = observation
        instance = valid_instances(observation)[0] if self.choice is None else self.choice
        scores = np.where(observation["mask"], self.score, -np.inf)
        return Decision(int(instance), np.eye(len(scores))[instance], scores)

    def observe(self, completions):
        self.told += [(outcome.decision_id, outcome.instance) for outcome in completions]

    def counters(self):
        return {"seen": 1}


def begun(defence):
    defence.reset(np.random.default_rng(0))
    return defence
