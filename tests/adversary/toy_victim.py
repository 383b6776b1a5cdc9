"""A victim with a known weakness: it trusts one scraped feature, and one lying instance ruins it.

Its instances are equal and share no prefixes, so that the worst that can be done is to send everything to one
of them. It takes the first of those with the fewest requests waiting: where instance 0 claims to have none,
it gets everything, whatever the others say. So with ``spoof(k=1)`` the worst case is reached, and known.
"""

from __future__ import annotations

import numpy as np

from adversary.feature.spoof import Spoof
from adversary.feature.threat import FeatureThreat
from adversary.threat import Budget
from agents.policy import Decision
from envs.emulator.fleet import cluster
from envs.observation import NUM_WAITING
from envs.routing import RoutingEnv
from envs.workload import generator

FIRST = 1e-6
"""What the order counts, in requests waiting: only where those are equal."""


class FewestWaiting:
    """The first instance with the fewest requests waiting, by its own word alone."""

    def reset(self, rng):
        pass

    def act(self, observation):
        return choice(np.where(observation["mask"] != 0, self.scores(observation["instances"]), -np.inf))

    def scores(self, instances):
        return -instances[:, NUM_WAITING].astype(np.float64) - FIRST * np.arange(len(instances))

    def torch_scores(self, instances, request, mask):
        import torch

        return -instances[..., NUM_WAITING].double() - FIRST * torch.arange(instances.shape[-2])

    def observe(self, completions):
        pass

    def counters(self):
        return {}


class AlwaysFirst(FewestWaiting):
    """The worst case: everything to one instance."""

    def scores(self, instances):
        return -np.arange(len(instances), dtype=np.float64)


def choice(scores):
    propensities = np.zeros(len(scores))
    propensities[scores.argmax()] = 1.0
    return Decision(int(scores.argmax()), propensities, scores)


def toy_env(num_instances=3, num_requests=300, seed=0):
    """Equal instances, of which one alone cannot keep up; the requests are those of ``seed``."""
    fleet = {"h100": {"count": num_instances, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}
    workload = generator.workload(
        seed=seed,
        num_generated=num_requests,
        rate_per_s=6.0 * num_instances,
        num_prefix_groups=0,
        prompt_median=4000,
        prompt_sigma=0.5,
        prompt_max=16000,
        output_median=50,
        output_max=200,
    )
    return RoutingEnv(cluster(fleet, scrape_interval_s=0.1), workload)


def toy_threat(max_instances=1):
    """One instance at a time lies about the feature that the victim trusts."""
    return FeatureThreat([Spoof({"num_waiting": 64.0})], Budget(max_instances=max_instances))
