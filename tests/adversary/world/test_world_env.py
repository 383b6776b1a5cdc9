"""The environment of a world's attacker, by Gymnasium's own checker and against the harm it stands for."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import adversary
from adversary.harm import Naive, Primary
from adversary.validate import require_valid
from adversary.world.env import WorldAdversaryEnv
from agents.heuristics.round_robin import RoundRobin

from .worlds import routing_env, threat


def make(**options):
    return WorldAdversaryEnv(routing_env, **{"threat": threat(), "seeds": [0, 1]} | options)


def run(env, seed, rng, **options):
    """Observations, rewards and the last info of an episode of random actions."""
    observation, info = env.reset(seed=seed, options=options or None)
    observations, rewards, done = [observation], [], False
    while not done:
        assert env.observation_space.contains(observation), observation
        wish = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, done, truncated, info = env.step(wish)
        assert not truncated
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), rewards, info


def test_it_can_be_made_as_it_is():
    assert adversary.__doc__
    env = gymnasium.make("RouteGym/WorldAdversary-v0")
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (4 * 7 + 1 + 6 + 4,)
    env.close()


def test_gymnasium_and_stable_baselines_have_no_complaint():
    check_env(make(), skip_render_check=True)
    sb3_check_env(make())


@pytest.mark.parametrize("harm", [None, Naive(), Primary()])
def test_rewards_sum_to_the_harm_and_what_was_done_is_allowed(harm):
    env = make(harm=harm)
    assert (env.trial.reference is None) == (harm is not None)
    observations, rewards, info = run(env, 0, np.random.default_rng(0))
    assert len(rewards) == 5
    assert sum(rewards) == pytest.approx(env.harm(info["losses"]))
    trace = info["trace"]
    trace.check()
    require_valid(trace.knobs, trace.budget, trace.values)
    assert np.array_equal(trace.values[-1], info["values"])
    assert trace.about["harm"] == env.harm(info["losses"])
    assert observations[:, 4 * 7].tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert observations[1:, : 4 * 7].any()
    with pytest.raises(gymnasium.error.ResetNeeded, match="the attack is over"):
        env.step(env.action_space.sample())


def test_same_seed_same_bytes_and_worlds_may_be_chosen():
    found = [run(make(), 7, np.random.default_rng(3)) for _ in range(2)]
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert found[0][1] == found[1][1]
    env = make()
    chosen = [run(env, 7, np.random.default_rng(3), world_seed=seed)[2]["trace"] for seed in (4, 5, 4)]
    assert [trace.about["seed"] for trace in chosen] == [4, 5, 4]
    assert chosen[0].about["harm"] == chosen[2].about["harm"] != chosen[1].about["harm"]
    drawn = {env.reset(seed=seed)[1]["world_seed"] for seed in range(12)}
    assert drawn == {0, 1}


def test_a_victim_that_does_as_the_reference_gives_nothing_to_gain():
    _, rewards, _ = run(make(victim=RoundRobin()), 0, np.random.default_rng(1))
    assert rewards == [0.0] * 5


def test_no_world_is_an_error():
    with pytest.raises(ValueError, match="seeds is empty"):
        make(seeds=[])
