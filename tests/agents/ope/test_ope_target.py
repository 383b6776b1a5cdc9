"""What a policy would have done is what it does when it plays."""

from contextlib import closing

import numpy as np
import pytest

from agents.bandits.linucb import LinUCB
from agents.bandits.thompson import ThompsonSampling
from agents.heuristics.dynamo_cost import DynamoCost
from agents.heuristics.power_of_two import PowerOfTwo
from agents.heuristics.round_robin import RoundRobin
from agents.ope.logged import read
from agents.ope.target import propensities
from agents.policy import Decision
from agents.recording import recorder_of
from agents.rollout import play
from envs.emulator import fleet
from envs.routing import RoutingEnv
from envs.workload import generator

from .recordings import outcome, write

FLEET = {
    "fast": {"profile": "h100_llama-3.1-8b", "count": 2, "max_model_len": 2048},
    "slow": {"profile": "l40s_llama-3.1-8b", "count": 2, "max_model_len": 2048},
}


class Proportional:
    """Chooses by a memory: in an episode's n-th decision the first instance has probability 1 / n."""

    def reset(self, rng):
        self.num = 0

    def act(self, observation):
        self.num += 1
        chances = np.array([1 / self.num, 1 - 1 / self.num])
        return Decision(0, chances, chances)

    def observe(self, completions):
        raise AssertionError("it is told nothing of others' decisions")

    def counters(self):
        return {}


def recorded(directory, policy, seeds=(0, 1), **options):
    workload = generator.workload(
        num_generated=60, rate_per_s=20, prompt_median=300, prompt_min=1, prompt_max=1500, max_model_len=2000
    )
    env = RoutingEnv(fleet.cluster(FLEET), workload, **options)
    with closing(env), recorder_of(env, directory, "it@1") as recorder:
        for seed in seeds:
            play(env, policy, seed, recorder)
    return read([directory], "ttft_s", None)


@pytest.mark.parametrize("num_routers", [1, 3])
@pytest.mark.parametrize("policy", [DynamoCost(temperature=0.3), PowerOfTwo(), RoundRobin()])
def test_the_recorded_policy_would_have_done_the_same(policy, num_routers, tmp_path):
    logged = recorded(tmp_path / "it", policy, num_routers=num_routers)
    assert np.array_equal(propensities(policy, "it", logged, 0), logged.propensities)


def test_episodes_and_routers_have_memories_of_their_own(tmp_path):
    routers = [0, 1, 1, 0, 1]
    directory = write(tmp_path / "it", [outcome(0)], 5, routers=routers, episodes=2)
    found = propensities(Proportional(), "it", read([directory], "ttft_s", None), 0)
    assert found[:, 0].tolist() == [1, 1, 1 / 2, 1 / 2, 1 / 3] * 2


def test_nothing_is_learned(tmp_path):
    logged = recorded(tmp_path / "it", DynamoCost(temperature=0.3))
    learner = LinUCB()
    propensities(learner, "it", logged, 0)
    assert learner.state()["model"]["num_updates"] == 0


def test_chance_is_the_seeds_and_never_the_recordings(tmp_path):
    """Thompson sampling's propensities are drawn: those of its own recording know what was chosen."""
    policy = ThompsonSampling(num_draws=4)
    logged = recorded(tmp_path / "it", policy, seeds=(0,))
    fresh = ThompsonSampling(num_draws=4)
    first, again, other = (propensities(fresh, "it", logged, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, logged.propensities)


@pytest.mark.parametrize("chances", [(0.5, 0.6), (np.nan, 1.0), (1.5, -0.5), (0.0, 1.0)])
def test_propensities_that_are_none_are_refused(chances, tmp_path):
    class Bad(Proportional):
        def act(self, observation):
            return Decision(0, np.array(chances), np.zeros(2))

    logged = read([write(tmp_path / "it", [outcome(0)], 1)], "ttft_s", None)
    logged.mask[:, 1] = 0
    with pytest.raises(ValueError, match=r"policies\.mine: its propensities are no probabilities"):
        propensities(Bad(), "mine", logged, 0)
