"""The environment over stand-ins for vLLM: Gymnasium's contract, and the reward's identities to 1e-9."""

import math
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf

import conf
from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.power_of_two import PowerOfTwo
from agents.heuristics.round_robin import RoundRobin
from agents.rollout import play
from conf.build import ConfigError, build
from envs.live import fleet
from envs.routing import RoutingEnv
from envs.workload import generator, sessions
from reward.e2e import E2e
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

from .fake_vllm import fakes
from .leaks import nothing_left

SHORT = {
    "num_prefix_groups": 8,
    "hash_block_tokens": 64,
    "prompt_median": 300,
    "prompt_min": 16,
    "prompt_max": 1500,
    "output_median": 6,
    "output_min": 2,
    "output_max": 20,
}
POLICIES = [RoundRobin, LeastInFlight, PowerOfTwo, CacheAware]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.fixture
def servers():
    with fakes(3, ttft_s=0.02, token_interval_s=0.002) as three:
        yield three


def env_over(servers, workload=None, reward=None, scrape_interval_s=0.05, **options):
    cluster = fleet.cluster(
        {f"i{number}": server.url for number, server in enumerate(servers)},
        scrape_interval_s=scrape_interval_s,
        first_token_timeout_s=30.0,
        token_timeout_s=30.0,
        scrape_timeout_s=30.0,
    )
    workload = workload or generator.workload(num_generated=40, rate_per_s=60.0, **SHORT)
    return RoutingEnv(cluster, workload, reward, **options)


def played(env, policy, seed=0):
    """Rewards and feedback of an episode."""
    policy.reset(np.random.default_rng(seed))
    observation, _ = env.reset(seed=seed)
    rewards, feedback, done = [], [], False
    while not done:
        assert env.observation_space.contains(observation)
        decision = policy.act(observation)
        observation, reward, done, _, info = env.step(decision.instance)
        rewards.append(reward)
        feedback.extend(info["completions"])
        policy.observe(info["completions"])
    return rewards, feedback


@pytest.mark.parametrize("policy", POLICIES)
def test_rewards_sum_to_minus_the_ttft(servers, policy):
    env = env_over(servers)
    try:
        rewards, feedback = played(env, policy())
        assert sorted(outcome.decision_id for outcome in feedback) == list(range(40))
        assert not any(outcome.failure for outcome in feedback)
        ttft_s = math.fsum(outcome.ttft_s for outcome in feedback)
        assert math.fsum(rewards) == pytest.approx(-ttft_s, rel=1e-9, abs=1e-9)
        assert all(outcome.ttft_s >= 0.02 for outcome in feedback)  # as the servers take that long
    finally:
        env.close()


def test_latencies_with_faults_retries_and_several_routers(servers):
    for server in servers:
        server.faults, server.fault_after = ["", "500", "cut", "", "not_json"], 1
    reward = WeightedSum({"ttft": Weighted(Ttft()), "e2e": Weighted(E2e())})
    env = env_over(servers, reward=reward, max_retries=9, num_routers=2)
    try:
        rewards, feedback = played(env, RoundRobin())
        served = [outcome for outcome in feedback if not outcome.failure]
        assert len(served) == 40
        assert sum(outcome.is_retried for outcome in feedback) == 9
        expected_s = math.fsum(outcome.ttft_s + outcome.e2e_s for outcome in served)
        assert math.fsum(rewards) == pytest.approx(-expected_s, rel=1e-9, abs=1e-9)
        counters = env.cluster.counters()
        assert (counters["num_submitted"], counters["num_served"], counters["num_failed"]) == (49, 40, 9)
    finally:
        env.close()


@pytest.mark.parametrize("pause_s", [0.02, 1e-6])  # the latter is over before the end of the answer is known
def test_closed_loop_sessions(servers, pause_s):
    workload = sessions.workload(
        num_sessions=6,
        sessions_per_s=20.0,
        turns_median=3,
        turns_max=5,
        new_median=50,
        new_max=200,
        output_median=8,
        output_max=20,
        pause_median_s=pause_s,
        pause_max_s=5 * pause_s,
        num_system_tokens=64,
        max_model_len=4000,
    )
    env = env_over(servers, workload)
    try:
        rewards, feedback = played(env, LeastInFlight())
        served = [outcome for outcome in feedback if not outcome.failure]
        assert len(served) == len(feedback) > 6
        ttft_s = math.fsum(outcome.ttft_s for outcome in feedback)
        assert math.fsum(rewards) == pytest.approx(-ttft_s, rel=1e-9, abs=1e-9)
    finally:
        env.close()


def test_gymnasiums_checks(servers):
    for server in servers:  # nothing happens between two decisions, so that not even their instants differ
        server.ttft_s = 0.3
    workload = generator.workload(num_generated=5, rate_per_s=100.0, **SHORT)
    env = env_over(servers, workload, scrape_interval_s=5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()


def test_rollout_ledger_and_passive_wrappers(servers):
    env = env_over(servers)
    try:
        ledger = play(env, RoundRobin(), seed=3).ledger
        assert len(ledger) == 40
        assert (ledger["failure"] == "").all()
        assert np.bincount(ledger["instance"]).tolist() == [14, 13, 13]
        wrapped = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.PassiveEnvChecker(env))
        wrapped.reset(seed=0)
        done = False
        while not done:
            _, _, done, _, info = wrapped.step(0)
        assert info["episode"]["l"] == 40
    finally:
        env.close()


def test_the_config_is_built(servers):
    config = OmegaConf.load(Path(conf.__file__).parent / "cluster" / "live.yaml")
    config.endpoints = {"a": {"url": servers[0].url, "profile": "h100_llama-3.1-8b"}, "b": None}
    cluster = build(config, "cluster")
    assert [trait.name for trait in cluster.traits] == ["a"]
    config.endpoints.a.max_num_seq = 3
    with pytest.raises(ConfigError, match="cluster: endpoint 'a': unknown key 'max_num_seq'"):
        build(config, "cluster")
