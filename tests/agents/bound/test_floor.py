from dataclasses import replace

import numpy as np
import pytest

from agents.bound.episode import Episode, play_plan
from agents.bound.floor import best_hit_tokens, least_mean_ttft_s, mean_busy_at_s, relaxed
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from envs.cluster import Request
from envs.emulator import fleet
from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.profile import load
from envs.emulator.step_time import StepTimeLaw
from envs.routing import RoutingEnv
from envs.workload import generator

TICK_S = 2.0**-10
PROFILE = replace(
    load("h100_llama-3.1-8b"), law=StepTimeLaw(0.0, 10 * TICK_S, TICK_S, 0.5 * TICK_S, 0.0, 0.0)
)


def requests_of(*prompts_and_hashes):
    return [
        Request(number, 0.0, num_prompt_tokens, 1, np.array(hashes, np.int64))
        for number, (num_prompt_tokens, hashes) in enumerate(prompts_and_hashes)
    ]


def episode_of(requests):
    blank = np.zeros(len(requests))
    return Episode(requests, list(range(len(requests))), blank.astype(int), blank[:, None] == 0, blank)


def test_alone_by_hand():
    options = {"num_blocks": 64, "max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 200}
    cluster = EmulatedCluster(
        [InstanceConfig(PROFILE, **options), InstanceConfig(PROFILE, **options, prefix_caching=False)], 4
    )
    alone_s, work_s = relaxed(
        cluster, episode_of(requests_of((128, range(1, 33)), (129, range(1, 33)), (8, ()), (200, ()))), False
    )
    # 128 tokens: two steps of 10 + 64 ticks, 128 * 129 / 2 pairs; then one token after 128 cached ones.
    pairs = np.array([[8256, 8256], [129, 129 * 130 / 2], [36, 36]])
    linear = np.array([[148, 148], [11, 129 * 74 / 64], [11, 11]])
    assert alone_s[:3] / TICK_S == pytest.approx(linear + 0.5 * pairs)
    assert work_s[:3] / TICK_S == pytest.approx(
        np.array([[128, 128], [1, 129], [8, 8]]) * 74 / 64 + 0.5 * pairs
    )
    assert np.isinf(alone_s[3]).all()


def test_hits_are_those_of_other_requests():
    requests = requests_of((9, [1, 2]), (9, [1, 2]), (8, [1, 2]), (20, [1, 5, 2]), (20, [7, 1]))
    assert best_hit_tokens(requests, 4, in_order=True).tolist() == [0, 8, 4, 4, 0]
    assert best_hit_tokens(requests, 4, in_order=False).tolist() == [8, 8, 4, 4, 0]


def test_least_work_first_by_hand():
    at_s, work = np.array([0.0, 1.0]), np.array([4.0, 1.0])
    # At rate 1 the first works in [0, 1] and [2, 5], at rate 2 in [0, 1] and [1.5, 2.5].
    assert mean_busy_at_s(at_s, work, 1.0).tolist() == [2.75, 1.5]
    assert mean_busy_at_s(at_s, work, 2.0).tolist() == [1.25, 1.25]


@pytest.mark.parametrize("rate_per_s", [0.2, 200.0])
def test_no_rule_is_below_it(rate_per_s):
    groups = {name: {"profile": f"{name}_llama-3.1-8b", "max_model_len": 32768} for name in ("h100", "l40s")}
    workload = generator.workload(num_generated=60, rate_per_s=rate_per_s, prompt_max=20000)
    env = RoutingEnv(fleet.cluster(groups), workload)
    for rule in (LlmdTokenLoad(), LeastInFlight()):
        played = play_plan(env, 0, {}, rule)
        alone_s = relaxed(env.cluster, played, False).alone_s.min(axis=1)
        floor_s = least_mean_ttft_s(env.cluster, played, False)
        assert (alone_s <= played.ttft_s + 1e-12).all()
        assert floor_s <= played.cost_s
        assert floor_s == pytest.approx(alone_s.mean()) if rate_per_s < 1 else floor_s > 2 * alone_s.mean()
