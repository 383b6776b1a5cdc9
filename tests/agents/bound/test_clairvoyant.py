from copy import deepcopy
from itertools import product

import numpy as np
import pytest

from agents.bandits.marginal_delay import MarginalDelay
from agents.bound.clairvoyant import Clairvoyant
from agents.bound.episode import play_plan
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.heuristics.round_robin import RoundRobin
from agents.metrics import requests_of
from agents.policy import Foreseeing
from agents.rollout import play
from envs.emulator import fleet
from envs.routing import RoutingEnv
from envs.workload import generator, sessions
from envs.world import Schedule, World

PROFILES = {"fast": "h100_llama-3.1-8b", "slow": "l40s_llama-3.1-8b"}
ENGINE = {"num_blocks": 700, "max_num_seqs": 8, "max_num_batched_tokens": 1024, "max_model_len": 8192}


def tiny_env(num_requests, rate_per_s=12.0, world=None, counts=(1, 1), closed_loop=False, **options):
    """Instances whose caches overflow, under prompts that share their beginnings."""
    groups = {
        name: {"count": count, "profile": profile} | ENGINE
        for count, (name, profile) in zip(counts, PROFILES.items(), strict=True)
    }
    if closed_loop:
        workload = sessions.workload(
            num_sessions=12,
            sessions_per_s=20.0,
            turns_median=4,
            turns_max=6,
            new_median=1500,
            new_max=2000,
            output_median=40,
            output_max=200,
            pause_median_s=0.5,
            pause_max_s=2.0,
            num_prefix_groups=2,
            num_system_tokens=512,
            max_model_len=8192,
        )
    else:
        workload = generator.workload(
            num_generated=400,
            rate_per_s=rate_per_s,
            num_prefix_groups=3,
            prompt_median=2000,
            prompt_max=6000,
            output_median=60,
            output_max=300,
            hash_block_tokens=64,
            num_requests=num_requests,
            start="random",
        )
    return RoutingEnv(fleet.cluster(groups, world=world), workload, **options)


def ttft_s(ledger):
    """TTFT of each request, in the order of arrival; infinite where it failed."""
    requests = requests_of(ledger)
    return np.where(requests["failure"] == "", requests["ttft_s"], np.inf)


@pytest.mark.parametrize("seed", range(2))
def test_it_finds_the_best_of_all_assignments(seed):
    env, rule = tiny_env(8), LlmdTokenLoad()
    first = play_plan(env, seed, {}, rule)
    costs = [
        play_plan(env, seed, dict(zip(first.names, plan, strict=True)), rule).cost_s
        for plan in product(range(2), repeat=8)
    ]
    clairvoyant = Clairvoyant({"rule": rule}, max_placed=800)
    clairvoyant.foresee(env, seed)
    floor_s, found_s, rule_s = clairvoyant.bracket
    assert floor_s <= min(costs) <= found_s <= rule_s == first.cost_s
    assert found_s == min(costs)


THROTTLED = World(schedule=Schedule([{"at_s": 1.0, "instance": 0, "what": "slow", "factor": 5.0}]))
FAILING = World(
    schedule=Schedule(
        [
            {"at_s": 1.0, "instance": 0, "what": "fail"},
            {"at_s": 1.5, "instance": 0, "what": "restart"},
            {"at_s": 1.6, "instance": 2, "what": "remove"},
            {"at_s": 2.5, "instance": 1, "what": "flush_cache"},
        ]
    ),
    cold_start_s=0.5,
    network_delay_s=[0.01, 0.02, 0.03],
)
WORLDS = {
    "quiet": {},
    "throttled": {"world": THROTTLED},
    "failing": {"world": FAILING},
    "retried": {"world": FAILING, "max_retries": 1},
    "jittery": {"world": World(network_delay_s=0.05, network_jitter_s=0.1)},
    "four routers": {"num_routers": 4, "router_affinity": "session"},
    "closed loop": {"closed_loop": True},
}


@pytest.mark.parametrize("options", WORLDS.values(), ids=WORLDS.keys())
def test_it_is_never_worse_than_its_rule_and_comes_out_as_foreseen(options):
    env = tiny_env(40, rate_per_s=20.0, counts=(2, 1), **options)
    clairvoyant, rule = Clairvoyant({"rule": LlmdTokenLoad()}, max_placed=120, window=20), LlmdTokenLoad()
    by_rule, found = play(env, rule, seed=3), play(env, clairvoyant, seed=3)
    assert isinstance(clairvoyant, Foreseeing)
    floor_s, found_s, rule_s = clairvoyant.bracket
    assert floor_s <= found_s < rule_s
    failed = [np.isinf(ttft_s(rollout.ledger)).sum() for rollout in (by_rule, found)]
    assert failed[1] <= failed[0]
    if not failed[0]:
        assert ttft_s(by_rule.ledger).mean() == pytest.approx(rule_s, rel=1e-12)
    if not failed[1]:
        assert ttft_s(found.ledger).mean() == pytest.approx(found_s, rel=1e-12)


def test_it_begins_with_the_best_of_its_rules():
    env = tiny_env(40, rate_per_s=20.0, counts=(2, 1))
    rules = {"turns": RoundRobin(), "load": LlmdTokenLoad(), "learns": MarginalDelay()}
    means = {name: play_plan(env, 3, {}, deepcopy(rule)).cost_s for name, rule in rules.items()}
    for names in (["turns", "load"], ["load", "turns"], ["turns", "learns"]):
        clairvoyant = Clairvoyant({name: rules[name] for name in names}, max_placed=80, window=20)
        clairvoyant.foresee(env, 3)
        assert clairvoyant.bracket.rule_s == min(means[name] for name in names)
        assert ttft_s(play(env, clairvoyant, seed=3).ledger).mean() <= clairvoyant.bracket.rule_s
    with pytest.raises(ValueError, match="rules: there is none to begin with"):
        Clairvoyant({})


def test_the_same_seed_finds_the_same():
    ledgers = []
    for _ in range(2):
        env = tiny_env(30, world=World(network_jitter_s=0.1))
        ledgers.append(
            play(env, Clairvoyant({"rule": LlmdTokenLoad()}, max_placed=120, window=10), seed=3).ledger
        )
    assert ledgers[0].equals(ledgers[1])


def test_a_dying_instance_is_left_before_it_dies():
    env = tiny_env(40, rate_per_s=20.0, counts=(2, 1), world=FAILING)
    assert np.isinf(ttft_s(play(env, RoundRobin(), seed=3).ledger)).any()
    assert not np.isinf(
        ttft_s(play(env, Clairvoyant({"rule": RoundRobin()}, max_placed=100), seed=3).ledger)
    ).any()


def test_what_cannot_be_foreseen_is_refused():
    with pytest.raises(ValueError, match="mean_time_to_failure_s"):
        Clairvoyant({"rule": LlmdTokenLoad()}).foresee(
            tiny_env(8, world=World(mean_time_to_failure_s=10.0)), 0
        )
    with pytest.raises(RuntimeError, match="foresee"):
        Clairvoyant({"rule": LlmdTokenLoad()}).reset(np.random.default_rng(0))
    with pytest.raises(ValueError, match="max_placed is 0"):
        Clairvoyant({"rule": LlmdTokenLoad()}, max_placed=0)
