"""Small emulated worlds, and a way to lie to a policy in them."""

from copy import deepcopy

import numpy as np

from envs.emulator.fleet import cluster
from envs.observation import FRAC_KV_CACHE_USAGE, NUM_RUNNING, NUM_WAITING
from envs.routing import RoutingEnv
from envs.workload import generator

FLEET = {
    "h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072},
    "l40s": {"count": 2, "profile": "l40s_llama-3.1-8b", "max_model_len": 131072},
}


def small_env(num_requests=500, rate_per_s=2.4, scrape_interval_s=0.1, **options):
    """Four instances of two kinds, at a load that the rules keep up with."""
    workload = generator.workload(
        num_generated=4000, rate_per_s=rate_per_s, num_requests=num_requests, start="random"
    )
    fleet = cluster(FLEET, scrape_interval_s=scrape_interval_s)
    return RoutingEnv(fleet, workload, **options)


class LiedTo:
    """A policy that one instance tells it were idle, in so many of its decisions."""

    def __init__(self, policy, liar=0, often=1.0):
        self.policy, self.liar, self.often = policy, liar, often
        self.observe, self.counters = policy.observe, policy.counters

    def reset(self, rng):
        self.chance = np.random.default_rng(1)
        self.policy.reset(rng)

    def act(self, observation):
        instances = observation["instances"].copy()
        if self.chance.random() < self.often:
            instances[self.liar, [NUM_WAITING, NUM_RUNNING, FRAC_KV_CACHE_USAGE]] = 0
        return self.policy.act({**observation, "instances": instances})


class Beside:
    """A policy that decides, and another that is asked what it would have done: counts where they differ."""

    def __init__(self, policy, other):
        self.policy, self.other = policy, other
        self.num_decided = self.num_different = 0

    def reset(self, rng):
        self.other.reset(
            deepcopy(rng)
        )  # the same chances: ties are no difference, as long as both draw alike
        self.policy.reset(rng)

    def act(self, observation):
        decision = self.policy.act(observation)
        self.num_decided += 1
        self.num_different += decision.instance != self.other.act(observation).instance
        return decision

    def observe(self, completions):
        self.policy.observe(completions)
        self.other.observe(completions)

    def counters(self):
        return self.policy.counters()
