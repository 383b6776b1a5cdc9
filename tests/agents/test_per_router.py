"""A policy's memory is each router's own."""

import numpy as np
import pytest

from agents.heuristics.least_kv_cache import LeastKVCache
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.vllm_dp import VLLMDataParallel
from agents.policy import Decision
from agents.rollout import play
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.workload import generator

FLEET = {"h100": {"count": 4, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}


class Diary:
    """Notes what it is asked and told; all copies write into the same books."""

    def __init__(self):
        self.books = BOOKS

    def reset(self, rng):
        self.book = {"chance": rng.random(), "decided": 0, "known": []}
        self.books.append(self.book)

    def act(self, observation):
        self.book["decided"] += 1
        propensities = np.eye(len(observation["mask"]))[self.book["decided"] % 4]
        return Decision(self.book["decided"] % 4, propensities, propensities)

    def observe(self, completions):
        self.book["known"] += [(outcome.decision_id, outcome.instance) for outcome in completions]

    def counters(self):
        return {"decided": self.book["decided"]}

    def __deepcopy__(self, memo):
        return Diary()


BOOKS = []


def env(num_routers):
    workload = generator.workload(
        num_generated=200,
        rate_per_s=20.0,
        prompt_median=1000,
        prompt_max=2000,
        output_median=20,
        output_max=50,
    )
    return RoutingEnv(cluster(FLEET), workload, num_routers=num_routers)


def test_each_router_decides_and_learns_by_itself():
    BOOKS.clear()
    rollout = play(env(3), Diary(), seed=0)
    assert len(BOOKS) == 3
    assert len({book["chance"] for book in BOOKS}) == 3
    assert sum(book["decided"] for book in BOOKS) == len(rollout.ledger) == rollout.counters["decided"] == 200
    for book in BOOKS:
        assert book["decided"] > 40
        # Its n-th decision went to instance n + 1, and that is what it is told of its n-th decision.
        assert sorted(book["known"]) == [(number, (number + 1) % 4) for number in range(book["decided"])]


def test_one_router_needs_no_copy():
    BOOKS.clear()
    play(env(1), Diary(), seed=0)
    assert len(BOOKS) == 1


def test_round_robin_of_several_routers_is_not_one_round():
    sent = {num: play(env(num), RoundRobin(), seed=0).ledger["instance"].to_numpy() for num in (1, 8)}
    assert (sent[1] == np.arange(200) % 4).all()
    # Every router begins with the first instance.
    assert (sent[8][:8] == 0).sum() > 3
    windows = {num: [len(set(sent[num][at : at + 4])) for at in range(0, 200, 4)] for num in sent}
    assert set(windows[1]) == {4}
    assert np.mean(windows[8]) < 3.5


def spread(policy, num_routers, seed):
    """Share of the fullest of 8 instances among the requests of a second, its mean, and the mean TTFT."""
    fleet = {"h100": {**FLEET["h100"], "count": 8}}
    workload = generator.workload(
        num_generated=600,
        rate_per_s=24.0,
        prompt_median=3000,
        prompt_max=8000,
        output_median=100,
        output_max=300,
    )
    env = RoutingEnv(cluster(fleet, scrape_interval_s=1.0), workload, num_routers=num_routers)
    ledger = play(env, policy, seed).ledger
    by_second = ledger.groupby(ledger["arrived_at_s"].astype(int))["instance"]
    shares = by_second.agg(lambda instances: instances.value_counts().max() / len(instances))
    return shares[by_second.size() > 10].mean(), ledger["ttft_s"].mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_routers_that_do_not_see_each_other_herd(seed):
    # vLLM's balancer corrects stale counts by what it sent itself: alone it is nearly even (1/8 at best).
    alone, eight = spread(VLLMDataParallel(), 1, seed), spread(VLLMDataParallel(), 8, seed)
    assert alone[0] < 0.18
    assert eight[0] > 1.3 * alone[0]
    assert eight[1] > 1.1 * alone[1]
    # One that goes by the last scrape alone sends all requests of a second to one instance. Eight of them
    # look at different instants and so choose different ones: that herd is the lone router's.
    alone, eight = spread(LeastKVCache(), 1, seed), spread(LeastKVCache(), 8, seed)
    assert alone[0] > 0.9
    assert 0.3 < eight[0] < 0.7
