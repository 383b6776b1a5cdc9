"""Each rule against decisions worked out by hand."""

import numpy as np
import pytest

from agents.heuristics.aibrix_prefix import AibrixPrefix
from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.dynamo_cost import DynamoCost
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.least_kv_cache import LeastKVCache
from agents.heuristics.llmd_affinity import LlmdAffinity
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.heuristics.llmd_weighted import LlmdWeighted
from agents.heuristics.power_of_two import PowerOfTwo
from agents.heuristics.random import Random
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.session_hash import SessionHash
from agents.heuristics.smg_least_load import SmgLeastLoad
from agents.heuristics.vllm_dp import VLLMDataParallel
from tests.agents.heuristics.begun import begun, chances


def test_random_takes_each_valid_instance_equally(observe):
    policy = begun(Random())
    observation = observe(mask=[1, 0, 1, 1])
    choices = [policy.act(observation).instance for _ in range(3000)]
    assert policy.act(observation).propensities == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert np.bincount(choices, minlength=4) == pytest.approx([1000, 0, 1000, 1000], abs=120)


def test_round_robin_gives_each_a_turn(observe):
    policy, observation = begun(RoundRobin()), observe(mask=[1, 1, 0, 1])
    assert [policy.act(observation).instance for _ in range(5)] == [0, 1, 3, 0, 1]


def test_round_robin_counts_each_set_of_instances_apart(observe):
    policy = begun(RoundRobin())
    everyone, two = observe(mask=[1, 1, 1]), observe(mask=[0, 1, 1])
    assert [policy.act(look).instance for look in (everyone, two, everyone, two, everyone)] == [0, 1, 1, 2, 2]


def test_round_robin_starts_over_at_reset(observe):
    policy, observation = begun(RoundRobin()), observe(mask=[1, 1, 1])
    policy.act(observation)
    assert begun(policy).act(observation).instance == 0


def test_least_in_flight(observe):
    assert chances(LeastInFlight(), observe(num_in_flight=[4, 2, 3])) == [0, 1, 0]
    assert chances(LeastInFlight(), observe(num_in_flight=[2, 4, 2])) == [0.5, 0, 0.5]


def test_scores_are_costs_turned_round(observe):
    decision = begun(LeastInFlight()).act(observe(num_in_flight=[4, 2, 3], mask=[1, 0, 1]))
    assert decision.instance == 2
    assert decision.scores.tolist() == [-4, -np.inf, -3]
    assert decision.propensity == 1.0


def test_least_kv_cache_takes_the_last_of_equals(observe):
    assert chances(LeastKVCache(), observe(frac_kv_cache_usage=[0.2, 0.5, 0.2, 0.9])) == [0, 0, 1, 0]


def test_power_of_two_weighs_each_instance_by_the_pairs_it_wins(observe):
    # Six pairs: instance 1 wins its three; 2 beats 0 and 3, which share their own.
    observation = observe(num_in_flight=[5, 1, 3, 5])
    assert chances(PowerOfTwo(), observation) == pytest.approx([0.5 / 6, 3 / 6, 2 / 6, 0.5 / 6])
    assert chances(PowerOfTwo(), observe(num_in_flight=[5, 1], mask=[1, 0])) == [1, 0]


def test_power_of_two_draws_from_its_propensities(observe):
    policy, observation = begun(PowerOfTwo()), observe(num_in_flight=[5, 1, 3, 5])
    counts = np.bincount([policy.act(observation).instance for _ in range(3000)], minlength=4)
    assert counts / 3000 == pytest.approx(policy.act(observation).propensities, abs=0.03)


def test_vllm_dp_weighs_waiting_four_times(observe):
    # 4 * [1, 0, 2] + [3, 8, 0] = [7, 8, 8]
    assert chances(VLLMDataParallel(), observe(num_waiting=[1, 0, 2], num_running=[3, 8, 0])) == [1, 0, 0]


def test_vllm_dp_counts_what_it_sent_as_waiting(observe):
    # 4 * ([0, 0] + [2, 0]) + [0, 7] = [8, 7]
    observation = observe(num_running=[0, 7], num_sent_since_scrape=[2, 0])
    assert chances(VLLMDataParallel(), observation) == [0, 1]
    assert chances(VLLMDataParallel(count_sent=False), observation) == [1, 0]


def test_vllm_dp_takes_the_first_of_equals(observe):
    assert chances(VLLMDataParallel(), observe(num_running=[8, 4, 0], num_waiting=[0, 0, 1])) == [0, 1, 0]


def test_session_keeps_its_instance_whatever_the_load(observe):
    policy = begun(SessionHash())
    choices = {
        policy.act(observe(num_in_flight=load, request={"session_key": 77})).instance
        for load in np.random.default_rng(0).integers(0, 50, (20, 6))
    }
    assert len(choices) == 1


def test_sessions_spread_and_only_those_of_a_lost_instance_move(observe):
    policy, sessions = begun(SessionHash()), range(1000)

    def owners(mask):
        return np.array(
            [policy.act(observe(mask=mask, request={"session_key": key})).instance for key in sessions]
        )

    before, after = owners([1, 1, 1, 1]), owners([1, 1, 0, 1])
    assert np.bincount(before) == pytest.approx([250] * 4, abs=75)
    assert (after[before != 2] == before[before != 2]).all()
    assert np.bincount(after[before == 2], minlength=4)[[0, 1, 3]].min() > 0
    # Padding rows, and an instance that leaves at the end, do not move the others either.
    assert (owners([1, 1, 1, 1, 0, 0, 0]) == before).all()
    last_gone = owners([1, 1, 1, 0])
    assert (last_gone[before != 3] == before[before != 3]).all()


def test_without_session_the_fewest_sent(observe):
    policy = begun(SessionHash())
    assert policy.act(observe(num_sent_since_scrape=[2, 1, 4])).instance == 1
    assert policy.counters() == {"without_session": 1}


def test_aibrix_takes_the_longest_match_then_the_lower_load(observe):
    # mean 3, deviation sqrt(2): limit 4.41
    observation = observe(num_in_flight=[1, 3, 3, 5], frac_prefix_hit=[0.2, 0.6, 0.6, 0.9])
    assert chances(AibrixPrefix(), observation) == [0, 0.5, 0.5, 0]
    observation = observe(num_in_flight=[2, 4, 3, 3], frac_prefix_hit=[0.1, 0.6, 0.6, 0])
    assert chances(AibrixPrefix(num_deviations=2), observation) == [0, 0, 1, 0]


def test_aibrix_includes_the_limit(observe):
    # mean 2, deviation 2: limit 4
    assert chances(AibrixPrefix(), observe(num_in_flight=[0, 4], frac_prefix_hit=[0, 0.5])) == [0, 1]
    observation = observe(num_in_flight=[0, 4, 4], frac_prefix_hit=[0, 0.5, 0])  # mean 2.67, limit 4.55
    assert chances(AibrixPrefix(num_deviations=0.5), observation) == [1, 0, 0]  # limit 3.61


def test_aibrix_falls_back_to_the_least_loaded(observe):
    policy = begun(AibrixPrefix())
    assert policy.act(observe(num_in_flight=[3, 2, 4])).instance == 1
    # A spread of 8 still looks at the cache, one of 9 does not.
    assert policy.act(observe(num_in_flight=[8, 0, 0], frac_prefix_hit=[0, 0.4, 0.5])).instance == 2
    assert policy.act(observe(num_in_flight=[9, 1, 0], frac_prefix_hit=[0, 0.4, 0])).instance == 2
    assert policy.counters() == {"missed": 1, "imbalanced": 1}


def test_cache_aware_follows_the_longest_match_whatever_the_load_below_the_threshold(observe):
    observation = observe(num_in_flight=[0, 64, 10], frac_prefix_hit=[0.5, 0.9, 0.9])
    assert chances(CacheAware(), observation) == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("num_in_flight", "instance"), [([0, 65], 0), ([0, 64], 1), ([130, 195], 1), ([129, 195], 0)]
)
def test_cache_aware_balances_beyond_both_thresholds(observe, num_in_flight, instance):
    observation = observe(num_in_flight=num_in_flight, frac_prefix_hit=[0, 0.9])
    assert begun(CacheAware()).act(observation).instance == instance


def test_cache_aware_misses_up_to_the_threshold(observe):
    policy = begun(CacheAware())
    assert policy.act(observe(num_in_flight=[3, 2, 2], frac_prefix_hit=[0.3, 0, 0])).instance == 1
    assert policy.act(observe(num_in_flight=[3, 2, 2], frac_prefix_hit=[0.31, 0, 0])).instance == 0
    assert policy.counters() == {"missed": 1}


def test_cache_aware_takes_the_first_of_equal_loads(observe):
    assert chances(CacheAware(), observe(num_in_flight=[3, 2, 2])) == [0, 1, 0]
    assert chances(CacheAware(imbalance=4), observe(num_in_flight=[9, 2, 2])) == [0, 1, 0]


def dynamo_observation(observe):
    return observe(
        num_in_flight=[2, 1, 0],
        num_in_flight_uncached_tokens=[160, 0, 320],
        num_in_flight_prefill_tokens=[320, 0, 320],
        num_in_flight_decode_tokens=[0, 800, 320],
        frac_prefix_hit=[0.5, 0.25, 0],
        request={"num_prompt_tokens": 640},
    )


def test_dynamo_costs_are_blocks(observe):
    # prefill [10 + 40 - 20, 0 + 40 - 10, 20 + 40] + held [20, 50, 40]
    decision = begun(DynamoCost()).act(dynamo_observation(observe))
    assert decision.scores.tolist() == [-50, -80, -100]
    assert decision.instance == 0


def test_dynamo_weights(observe):
    policy = begun(DynamoCost(block_size=32, prefill_weight=2, overlap_credit=4, request_weight=3))
    # prefill [max(5 + 20 - 40, 0), max(20 - 20, 0), 30] twice + held [10, 25, 20] + 3 * [2, 1, 0]
    assert policy.act(dynamo_observation(observe)).scores.tolist() == [-16, -28, -80]


def test_dynamo_temperature(observe):
    weights = np.exp(-np.array([0, 30, 50]) / (50 * 0.5))
    expected = weights / weights.sum()
    assert chances(DynamoCost(temperature=0.5), dynamo_observation(observe)) == pytest.approx(expected)
    assert chances(DynamoCost(temperature=0.5), observe(num_in_flight=[1, 1])) == [0.5, 0.5]


def test_smg_adds_waits_in_seconds(observe):
    observation = observe(
        num_waiting=[1, 0, 0],
        num_tokens_sent_since_scrape=[0, 1000, 0],
        frac_kv_cache_usage=[0, 0.25, 0.8],
    )
    # [1024 / 2000, 1000 / 2000 + 0.15 / 3, 0.15 * 4] = [0.512, 0.55, 0.6]
    assert chances(SmgLeastLoad(), observation) == [1, 0, 0]
    # [0.5, 0.55, 0.6] without the guess for waiting requests would still be 0: drop the KV term instead.
    assert chances(SmgLeastLoad(kv_pressure_s=0), observation) == [0, 0, 1]
    assert chances(SmgLeastLoad(mean_prefill_tokens=2048), observation) == [0, 1, 0]


def test_smg_live_throughput_where_there_is_one(observe):
    observation = observe(num_tokens_sent_since_scrape=[1000, 3000], recent_tokens_per_s=[0, 8000])
    assert chances(SmgLeastLoad(), observation) == [1, 0]
    assert chances(SmgLeastLoad(live_throughput=True), observation) == [0, 1]  # 0.5 s, 0.375 s


def test_smg_full_cache_stays_finite_and_the_first_of_equals_wins(observe):
    assert chances(SmgLeastLoad(), observe(frac_kv_cache_usage=[1, 1])) == [1, 0]


def test_llmd_weighted_adds_scores(observe):
    observation = observe(
        num_waiting=[4, 0, 2], frac_kv_cache_usage=[0.5, 0.75, 0.25], frac_prefix_hit=[0.75, 0, 0.25]
    )
    # queue [0, 1, 0.5], kv [0.5, 0.25, 0.75], prefix [0.75, 0, 0.25] -> [3.25, 2.5, 3.25]
    assert chances(LlmdWeighted(), observation) == [0.5, 0, 0.5]
    assert chances(LlmdWeighted(queue_weight=5), observation) == [0, 1, 0]  # [3.25, 5.5, 4.75]


def test_llmd_weighted_ignores_equal_queues(observe):
    observation = observe(num_waiting=[7, 7], frac_kv_cache_usage=[0.5, 0.25])
    assert chances(LlmdWeighted(), observation) == [0, 1]


def test_llmd_token_load_adds_this_request(observe):
    observation = observe(
        num_in_flight_uncached_tokens=[3000, 2000, 1000], num_uncached_tokens=[100, 900, 2100]
    )
    assert chances(LlmdTokenLoad(), observation) == [0, 1, 0]


def test_llmd_token_load_is_clamped(observe):
    observation = observe(num_in_flight_uncached_tokens=[5e6, 4194304, 6e6])
    assert chances(LlmdTokenLoad(), observation) == pytest.approx([1 / 3] * 3)


def test_llmd_affinity_keeps_matches_from_the_threshold_on(observe):
    observation = observe(
        frac_prefix_hit=[0.8, 0.79, 0.9],
        num_in_flight_uncached_tokens=[5000, 0, 6000],
        num_uncached_tokens=[200, 210, 100],
    )
    assert chances(LlmdAffinity(), observation) == [1, 0, 0]


@pytest.mark.parametrize(("num_tokens", "instance"), [(286_704, 0), (286_705, 1)])
def test_llmd_affinity_breaks_18_s_behind(observe, num_tokens, instance):
    # 18 s * 15,928 tokens/s = 286,704 tokens
    policy = begun(LlmdAffinity())
    observation = observe(frac_prefix_hit=[1, 0], num_in_flight_uncached_tokens=[num_tokens, 0])
    assert policy.act(observation).instance == instance
    assert policy.counters() == ({"overloaded": 1} if instance else {})


def test_llmd_affinity_never_breaks_at_0(observe):
    observation = observe(frac_prefix_hit=[1, 0], num_in_flight_uncached_tokens=[4e6, 0])
    assert chances(LlmdAffinity(max_ttft_penalty_s=0), observation) == [1, 0]


def test_llmd_affinity_without_match_is_token_load(observe):
    policy = begun(LlmdAffinity())
    assert policy.act(observe(num_in_flight_uncached_tokens=[9, 8], frac_prefix_hit=[0.7, 0])).instance == 1
    assert policy.counters() == {"missed": 1}
