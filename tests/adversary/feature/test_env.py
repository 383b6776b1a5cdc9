"""The attacker's environment: Gymnasium's and SB3's checks, harm that adds up, and a liar made of a model."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO

import adversary  # noqa: F401 (registers the environment)
from adversary.feature.env import FeatureAdversaryEnv
from adversary.feature.replayed import Replayed
from adversary.feature.sb3_liar import Sb3Liar
from adversary.feature.sight import Sight
from adversary.harm import Naive, Primary, Relative
from agents.bandits.linucb import LinUCB
from agents.heuristics.round_robin import RoundRobin
from agents.rollout import play
from envs.emulator.fleet import cluster
from envs.observation import encode
from envs.routing import RoutingEnv
from envs.workload import generator
from envs.world import World
from tests.adversary.toy_victim import AlwaysFirst, FewestWaiting, toy_env, toy_threat


def episode(env, choose, **reset):
    """Play one; return the rewards and the last info."""
    observation, info = env.reset(**reset)
    assert observation in env.observation_space
    rewards, done = [], False
    while not done:
        observation, reward, done, truncated, info = env.step(choose(observation))
        assert observation in env.observation_space
        assert not truncated
        rewards.append(reward)
    return rewards, info


def by_chance(seed, env):
    rng = np.random.default_rng(seed)
    return lambda _: rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)


def test_gymnasium_and_sb3_find_nothing_wrong():
    env = gymnasium.make("RouteGym/FeatureAdversary-v0")
    check_env(env.unwrapped)
    sb3.check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("harm", [Naive(), Primary(), Relative()])
def test_rewards_add_up_to_the_harm(harm):
    env = FeatureAdversaryEnv(toy_env(), FewestWaiting(), toy_threat(), harm)
    rewards, info = episode(env, by_chance(0, env), seed=1)
    assert sum(rewards) == pytest.approx(harm(info["losses"]))
    assert info["trace"].about["harm"] == harm(info["losses"])
    info["trace"].check()
    world = env._world_seed
    plain = toy_env()
    for losses, policy in ((info["losses"].clean, FewestWaiting()), (info["losses"].reference, RoundRobin())):
        if losses.any():
            assert losses.sum() == pytest.approx(play(plain, policy, world).ledger["ttft_s"].sum(), rel=1e-9)
    assert info["losses"].reference.any() == harm.needs_reference


def test_what_is_recorded_plays_again_outside_of_the_environment():
    env = FeatureAdversaryEnv(toy_env(), LinUCB(), toy_threat(2), world_seeds=[5, 6])
    for seed in (0, 1):  # a victim that learns begins each episode anew
        _, info = episode(env, by_chance(seed, env), seed=seed)
        trace = info["trace"]
        again = env.episodes.attacked(toy_threat(2), Replayed(trace, trace.knobs), trace.about["world_seed"])
        assert np.array_equal(again.losses.victim, info["losses"].victim)
        assert np.array_equal(again.losses.clean, info["losses"].clean)
        assert np.array_equal(again.losses.num_requests, info["losses"].num_requests)
        assert np.array_equal(again.trace.values, trace.values)


def test_the_worst_that_can_be_done_to_the_toy_is_done_by_constant_lies():
    """What an attacker has to find: instance 0 says that it is idle, and gets everything."""
    env = FeatureAdversaryEnv(toy_env(), FewestWaiting(), toy_threat(), Naive())
    rewards, _ = episode(env, lambda _: np.array([1, 0, 0], np.float32), options={"world_seed": 0})
    assert sum(rewards) == pytest.approx(play(toy_env(), AlwaysFirst(), 0).ledger["ttft_s"].mean())
    still, info = episode(env, lambda _: np.zeros(3, np.float32), options={"world_seed": 0})
    assert sum(still) < 0.1 * sum(rewards)
    assert np.array_equal(info["losses"].victim, info["losses"].clean)


def test_same_seed_same_episode():
    def once():
        env = FeatureAdversaryEnv(toy_env(num_requests=60), FewestWaiting(), toy_threat())
        return episode(env, by_chance(3, env), seed=4)[0], episode(env, by_chance(3, env))[0]

    first, second = once(), once()
    assert first == second


def test_requests_that_are_sent_again_count_once():
    fleet = {"h100": {"count": 3, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}
    workload = generator.workload(num_generated=100, rate_per_s=10.0, prompt_median=2000, prompt_max=9000)
    world = World(mean_time_to_failure_s=8.0, downtime_s=1.0, cold_start_s=1.0)
    env = FeatureAdversaryEnv(
        RoutingEnv(cluster(fleet, world=world), workload, max_retries=2), harm=Relative()
    )
    rewards, info = episode(env, by_chance(0, env), seed=0)
    losses = info["losses"]
    assert losses.num_requests.sum() == 100 < len(losses.num_requests) == len(rewards)
    ledger = play(env.env, RoundRobin(), env._world_seed).ledger
    assert (losses.num_requests == 0).any()
    assert losses.reference.sum() == pytest.approx(env.episodes.reference(env._world_seed).sum())
    assert ledger["is_retried"].any()


def test_several_routers_are_deceived_together():
    fleet = {"h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}
    workload = generator.workload(num_generated=50, rate_per_s=10.0, prompt_median=2000, prompt_max=4000)
    env = FeatureAdversaryEnv(RoutingEnv(cluster(fleet), workload, num_routers=3), RoundRobin(), toy_threat())
    _, info = episode(env, by_chance(0, env), options={"world_seed": 2})
    assert np.array_equal(info["losses"].victim, info["losses"].clean)  # round robin looks at nothing


def test_what_is_seen_is_the_truth_and_the_last_values():
    env = FeatureAdversaryEnv(toy_env(), FewestWaiting(), toy_threat())
    env.reset(seed=0)
    for _ in range(150):
        observation, _, _, _, info = env.step(np.array([0.2, -0.7, 0.1], np.float32))
    true = env.env._look()
    assert true["instances"][:, 0].any()
    assert observation[:-3] == pytest.approx(encode(*true.values()).ravel())
    assert info["values"] == pytest.approx([0, -0.7, 0])
    assert observation[-3:] == pytest.approx(info["values"])


def test_a_trained_model_lies_as_it_did_in_its_environment():
    env = FeatureAdversaryEnv(toy_env(num_requests=64), FewestWaiting(), toy_threat(), world_seeds=[1])
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=0, device="cpu").learn(64)
    rewards, info = episode(env, lambda seen: model.predict(seen, deterministic=True)[0])
    liar = Sb3Liar(model, toy_threat(), 3)
    attacked = env.episodes.attacked(toy_threat(), liar, 1)
    assert np.array_equal(attacked.trace.values, info["trace"].values)
    assert env.harm(attacked.losses) == pytest.approx(sum(rewards))
    with pytest.raises(ValueError, match=r"this threat model on 2 instances has .* train it there"):
        Sb3Liar(model, toy_threat(), 2)


def test_positions_fill_the_space():
    knobs = toy_threat().knobs(3)
    assert Sight(knobs, 3).space.shape == (3 * 25 + 3,)


def test_wrong_use_is_named():
    env = FeatureAdversaryEnv(toy_env(num_requests=2), FewestWaiting(), toy_threat())
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(3, np.float32))
    episode(env, lambda _: np.zeros(3, np.float32), seed=0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="world_seeds is empty"):
        FeatureAdversaryEnv(world_seeds=[])
