"""Policies of every kind, small ones, and bundles of them."""

import numpy as np
import torch

from agents.bandits.linucb import LinUCB
from agents.bandits.lodestar import Lodestar
from agents.bandits.marginal_delay import MarginalDelay
from agents.bandits.predictor import Training
from agents.export import writing
from agents.export.plan import Range
from agents.heuristics.least_in_flight import LeastInFlight
from agents.rl.network import ScoreNetwork
from agents.rl.sb3_policy import Sb3Policy
from envs.observation import ENCODED_NAMES, encode
from tests.agents.bandits.two_speed_fleet import Fleet, look
from tests.agents.heuristics.test_conformance import CONFIGS, make, observations


def learned(learner, num_samples):
    """A learner that has seen some outcomes."""
    learner.reset(np.random.default_rng(0))
    Fleet(seed=5, delay=3).run(learner, num_samples)
    return learner


def lodestar(range_check="chosen"):
    training = Training(hidden_sizes=(16, 8), learning_rate=0.01, num_epochs=2)
    return learned(
        Lodestar(LeastInFlight(), training, first_training=60, fifo_size=100, range_check=range_check), 80
    )


def network(attention_heads=0):
    torch.manual_seed(3)
    return Sb3Policy(ScoreNetwork(len(ENCODED_NAMES), (32, 16), (8,), attention_heads))


LEARNED = {
    "linucb": lambda: learned(LinUCB(), 50),
    "lodestar": lodestar,
    "lodestar_any": lambda: lodestar("any"),
    "marginal_delay": lambda: learned(MarginalDelay(avoidance_per_s=0.1), 50),
    "network": network,
    "network_attention": lambda: network(attention_heads=4),
}
RULES = [name for name in CONFIGS if make(name).memory != "own"]
"""Those that can be exported."""
KINDS = {**{name: lambda name=name: make(name) for name in RULES}, **LEARNED}


def export_of(name):
    policy = KINDS[name]()
    if name not in LEARNED:
        return writing.Export(name, policy)
    rows = np.concatenate([encode(*look(np.random.default_rng(seed)).values()) for seed in range(50)])
    return writing.Export(
        name,
        policy,
        fallback=make("least_in_flight"),
        fallback_name="least_in_flight",
        trained_on=Range(rows.min(axis=0), rows.max(axis=0)),
    )


def seen(num_observations, seed=0):
    """Observations of 1 to 9 instances: some plausible, some full of ties, some like what was trained on."""
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(num_observations):
        num_instances = int(rng.integers(1, 10))
        if number % 3 == 0:
            drawn.append(look(rng, num_instances, num_masked=min(number % 3, num_instances - 1)))
        else:
            drawn.append(observations(rng, num_instances, coarse=number % 3 == 1))
    return drawn
