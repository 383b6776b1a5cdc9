import numpy as np
import pytest

from agents.bound.episode import play_plan
from agents.bound.search import Search
from agents.heuristics.random import Random
from envs.emulator import fleet
from envs.routing import RoutingEnv
from envs.workload import generator
from envs.world import Schedule, World

GROUPS = {
    "a": {"profile": "h100_llama-3.1-8b", "num_blocks": 300, "max_num_seqs": 4, "policy": "priority"},
    "b": {"profile": "l40s_llama-3.1-8b", "num_blocks": 400, "max_num_seqs": 16, "async_scheduling": False},
    "c": {"profile": "a100_llama-3.1-8b", "num_blocks": 300, "prefix_caching": False},
}
EVENTS = [
    {"at_s": 0.5, "instance": 0, "what": "slow", "factor": 3.0},
    {"at_s": 1.0, "instance": 1, "what": "flush_cache"},
    {"at_s": 1.5, "instance": 2, "what": "fail"},
    {"at_s": 2.0, "instance": 0, "what": "slow", "factor": 1.0},
    {"at_s": 2.0, "instance": 2, "what": "restart"},
    {"at_s": 2.5, "instance": 1, "what": "fail"},
    {"at_s": 2.6, "instance": 1, "what": "restart"},
    {"at_s": 3.0, "instance": 0, "what": "remove"},
    {"at_s": 6.0, "instance": 0, "what": "add"},
]


def env_of(world):
    groups = {name: group | {"max_model_len": 4096} for name, group in GROUPS.items()}
    workload = generator.workload(
        num_generated=150,
        rate_per_s=25.0,
        num_prefix_groups=2,
        prompt_median=900,
        prompt_max=3000,
        output_median=80,
        output_max=900,
        hash_block_tokens=32,
    )
    return RoutingEnv(fleet.cluster(groups, world=world), workload)


@pytest.mark.parametrize(
    "world",
    [None, World(schedule=Schedule(EVENTS), network_delay_s=[0.01, 0.0, 0.2], cold_start_s=0.25)],
    ids=["quiet", "disturbed"],
)
def test_instances_one_by_one_are_the_fleet_to_the_last_bit(world):
    env = env_of(world)
    played = play_plan(env, 0, {}, Random())
    search = Search(env.cluster, played)
    went_where_allowed = search.plan == played.instances
    assert went_where_allowed.all() if world is None else went_where_allowed.mean() > 0.5
    if world is not None:  # of those that no plan sends to where nobody serves
        played = play_plan(env, 0, played._replace(instances=search.plan).plan, Random())
    assert np.array_equal(search.ttft_s, played.ttft_s)
    assert len(np.unique(played.ttft_s)) > 100


def test_no_sweep_makes_it_worse_and_what_it_says_is_played():
    env = env_of(None)
    played = play_plan(env, 0, {}, Random())
    search = Search(env.cluster, played, lookahead=2, num_candidates=2)
    costs_s, gains = [search.cost_s], []
    rng = np.random.default_rng(0)
    for share, first, stop in ((0.0, 0, None), (1.0, 0, None), (0.3, 20, 60), (0.3, 0, 150)):
        numbers = first + np.flatnonzero(rng.random((stop or 150) - first) < share)
        gains.append(search.improve(numbers, rng if first else None, first, stop))
        costs_s.append(search.cost_s)
        assert gains[-1] == pytest.approx(1 - costs_s[-1] / costs_s[-2])
    assert min(gains) >= 0
    assert costs_s[-1] < 0.8 * costs_s[0]
    played = play_plan(env, 0, played._replace(instances=search.plan).plan, Random())
    assert np.array_equal(search.ttft_s, played.ttft_s)
