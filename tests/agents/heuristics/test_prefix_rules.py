"""Rules that weigh the cache against load, each against decisions worked out by hand."""

import numpy as np
import pytest

from agents.heuristics.dual_map import DualMap
from agents.heuristics.dynamo_two_tier import DynamoTwoTier
from agents.heuristics.llumnix import Llumnix
from agents.heuristics.lmetric import LMetric
from agents.heuristics.slo_slack import SloSlack
from agents.heuristics.smg_cache_aware import SmgCacheAware
from agents.heuristics.smg_prefix_hash import SmgPrefixHash
from agents.heuristics.stack_load_aware import StackLoadAware
from agents.heuristics.stack_prefix_aware import StackPrefixAware
from tests.agents.heuristics.begun import begun, chances


def test_lmetric_multiplies(observe):
    observation = observe(
        num_in_flight_uncached_tokens=[1000, 0, 200],
        num_uncached_tokens=[100, 900, 900],
        num_in_flight=[1, 2, 1],
    )
    # [1100 * 2, 900 * 3, 1100 * 2]
    assert begun(LMetric()).act(observation).scores.tolist() == [-2200, -2700, -2200]
    assert chances(LMetric(), observation) == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("num_in_flight", "match", "instance"),
    [
        # Those of the port's own tests: 6 blocks of 10 win, 5 do not.
        ([0, 4], [0, 0.6], 1),
        ([0, 4], [0, 0.5], 0),
        # A spread of 32 is not enough, one of 33 is; nor is it where it is less than a tenth.
        ([0, 32], [0, 0.9], 1),
        ([0, 33], [0, 0.9], 0),
        ([400, 433], [0, 0.9], 1),
        # The least loaded of those that match longest.
        ([0, 4, 3, 3], [0.8, 0.9, 0.9, 0.7], 2),
    ],
)
def test_two_tiers(observe, num_in_flight, match, instance):
    observation = observe(num_in_flight=num_in_flight, frac_prefix_hit=match)
    assert begun(DynamoTwoTier()).act(observation).instance == instance


def test_two_tiers_are_counted(observe):
    policy = begun(DynamoTwoTier())
    policy.act(observe(num_in_flight=[0, 33], frac_prefix_hit=[0, 0.9]))
    policy.act(observe(num_in_flight=[1, 1]))
    assert policy.counters() == {"imbalanced": 1, "missed": 1}


def test_stack_prefix_counts_whole_chunks(observe):
    # 40, 63 and 64 of 100 tokens held: 1, 1 and 2 chunks of 32; load is not looked at.
    observation = observe(
        num_uncached_tokens=[60, 37, 36], num_in_flight=[0, 0, 50], request={"num_prompt_tokens": 100}
    )
    assert chances(StackPrefixAware(), observation) == [0, 0, 1]
    assert chances(StackPrefixAware(chunk_tokens=40), observation) == pytest.approx([1 / 3] * 3)
    policy = begun(StackPrefixAware())
    policy.act(observe(num_uncached_tokens=[100, 69], request={"num_prompt_tokens": 100}))
    assert policy.counters() == {"missed": 1}


def test_stack_load_aware_docks_relative_load(observe):
    # Mean 4, so loads of [2, 0, 10] are [-0.5, -1, 1.5] of it: [0.25 + 0.5, 0 + 1, 1 - 1.5]
    observation = observe(num_in_flight=[2, 0, 10], frac_prefix_hit=[0.25, 0, 1])
    assert chances(StackLoadAware(), observation) == [0, 1, 0]
    # At 0.2: [0.35, 0.2, 0.7]
    assert chances(StackLoadAware(beta=0.2), observation) == [0, 0, 1]


def test_stack_load_aware_does_not_divide_by_a_mean_below_one(observe):
    # Mean 0.5: [0.2 - (1 - 0.5) / 1, 0 + 0.5] = [-0.3, 0.5], not [0.2 - 1, 1]; at a match of 1 a tie.
    assert chances(StackLoadAware(), observe(num_in_flight=[1, 0], frac_prefix_hit=[0.2, 0])) == [0, 1]
    observation = observe(num_in_flight=[1, 0], frac_prefix_hit=[1, 0])
    assert chances(StackLoadAware(), observation) == [1, 0]  # the first of equals


def test_stack_load_aware_goes_by_session_where_nothing_matches(observe):
    policy = begun(StackLoadAware())
    homes = {
        policy.act(observe(num_in_flight=[load, 0, 3], request={"session_key": 5})).instance
        for load in range(9)
    }
    assert len(homes) == 1
    assert policy.act(observe(num_sent_since_scrape=[2, 1, 4])).instance == 1
    assert policy.counters() == {"missed": 10, "without_session": 1}


def test_prefix_hash_leaves_a_full_instance(observe):
    policy = begun(SmgPrefixHash())
    home = policy.act(observe(num_in_flight=[0, 0, 0], request={"session_key": 9})).instance
    load = np.full(3, 20)
    for own, stays in ((35, True), (36, False)):  # means 76 / 3 = 25.3 and 25.7, of which 36 is over 10 more
        load[home] = own
        decision = policy.act(observe(num_in_flight=load, request={"session_key": 9}))
        assert (decision.instance == home) is stays
    load[:] = 100
    load[home] = 136  # mean 112.3: over it by more than 10, but less than a quarter
    assert policy.act(observe(num_in_flight=load, request={"session_key": 9})).instance == home
    assert policy.counters() == {"overloaded": 1}
    assert policy.act(observe(num_in_flight=[3, 2, 2])).instance == 1
    assert policy.counters() == {"overloaded": 1, "without_session": 1}


def smg(observe, num_in_flight, **more):
    """Without reports smg waits 1024 tokens for each request in flight."""
    tokens = [1024 * each for each in num_in_flight]
    return observe(num_in_flight=num_in_flight, num_tokens_sent_since_scrape=tokens, **more)


@pytest.mark.parametrize(
    ("num_in_flight", "match", "expected", "counter"),
    [
        ([5, 3, 1], [0.3, 0.2, 0], [0, 0, 1], "missed"),
        ([5, 3, 1], [0.31, 0.31, 0], [0, 1, 0], None),
        # Mean 4: a holder may have 4 more, not 5; of 9 and 5 the one that is not hot.
        ([8, 2, 2], [0.9, 0, 0], [1, 0, 0], None),
        ([9, 2, 1], [0.9, 0, 0], [0, 0, 1], "spilled"),
        ([9, 3, 0], [0.9, 0.9, 0], [0, 1, 0], None),
        # Mean 100: 2 sigma are 20, and a half more 50.
        ([150, 80, 70], [0.9, 0, 0], [1, 0, 0], None),
        ([151, 80, 69], [0.9, 0, 0], [0, 0, 1], "spilled"),
    ],
)
def test_smg_spills_from_a_hot_holder(observe, num_in_flight, match, expected, counter):
    policy = begun(SmgCacheAware())
    decision = policy.act(smg(observe, num_in_flight, frac_prefix_hit=match))
    assert decision.propensities.tolist() == expected
    assert policy.counters() == ({counter: 1} if counter else {})


def test_smg_spills_at_a_lower_margin(observe):
    observation = smg(observe, [5, 1, 0], frac_prefix_hit=[0.9, 0, 0])  # mean 2
    assert chances(SmgCacheAware(), observation) == [1, 0, 0]
    assert chances(SmgCacheAware(spill_requests=2), observation) == [0, 0, 1]


def test_smg_leaves_a_full_cache(observe):
    observation = smg(observe, [2, 1], frac_prefix_hit=[0.9, 0], frac_kv_cache_usage=[0.7, 0.2])
    assert chances(SmgCacheAware(), observation) == [1, 0]
    assert chances(SmgCacheAware(kv_ceiling=0.6), observation) == [0, 1]
    assert chances(SmgCacheAware(kv_ceiling=0.75, kv_spread=0.45), observation) == [0, 1]
    assert chances(SmgCacheAware(kv_spread=0.55), observation) == [1, 0]


def test_smg_leaves_out_overloaded_instances_while_there_are_others(observe):
    for overloaded in ({"num_waiting": [8, 7]}, {"frac_kv_cache_usage": [0.8, 0.79]}):
        assert chances(SmgCacheAware(), smg(observe, [0, 5], frac_prefix_hit=[0.9, 0], **overloaded)) == [
            0,
            1,
        ]
    both = smg(observe, [0, 5], frac_prefix_hit=[0.9, 0], num_waiting=[8, 9])
    assert chances(SmgCacheAware(), both) == [1, 0]


def test_llumnix_frees_memory_per_request(observe):
    observation = observe(
        num_kv_cache_tokens=[10000, 10000, 20000],
        frac_kv_cache_usage=[0.5, 0.25, 0.75],
        num_in_flight_prefill_tokens=[1000, 0, 0],
        num_running=[2, 4, 3],
        num_waiting=[1, 0, 1],
        num_sent_since_scrape=[1, 1, 0],
    )
    # [(10000 - 6000) / 4, 7500 / 5, 5000 / 4] = [1000, 1500, 1250]
    assert chances(Llumnix(), observation) == [0, 1, 0]


def test_llumnix_takes_an_idle_instance_first(observe):
    observation = observe(
        num_kv_cache_tokens=[50000, 9000, 9000], frac_kv_cache_usage=[0, 0.9, 0.9], num_running=[1, 0, 0]
    )
    assert chances(Llumnix(), observation) == [0, 1, 0]


def test_slack_is_weighed_against_what_the_request_takes(observe):
    observation = observe(
        num_in_flight_uncached_tokens=[0, 7000, 15000, 3000],
        num_uncached_tokens=[2000, 1000, 2000, 1000],
        prefill_tokens_per_s=[8000, 8000, 8000, 4000],
    )
    # TTFT [0.25, 1, 2.125, 1] s: slack [1.75, 1, -0.125, 1]; own [0.25, 0.125, 0.25, 0.25] s
    scores = begun(SloSlack()).act(observation).scores
    assert scores[[0, 1, 3]].tolist() == pytest.approx([-0.075, -0.025, -0.15])
    assert chances(SloSlack(), observation) == [0, 1, 0, 0]
    assert chances(SloSlack(slack_weight=0.2), observation) == [1, 0, 0, 0]  # [-0.1, -0.075, late, 0.05]
    assert chances(SloSlack(slack_weight=0), observation) == [0, 1, 0, 0]
    assert chances(SloSlack(estimate_factor=4.0), observation) == [1, 0, 0, 0]  # TTFT [1, 4, 8.5, 4] s
    policy = begun(SloSlack(slo_ttft_s=0.1))
    assert policy.act(observation).instance == 0  # all late, it the least
    assert policy.counters() == {"missed": 1}


def dual_map_observation(observe, hits, pending):
    return observe(
        frac_prefix_hit=np.array(hits) / 1000,
        num_uncached_tokens=[1000 - hit for hit in hits],
        num_in_flight_uncached_tokens=pending,
    )


def test_dual_map_of_a_new_prefix_draws_any_two(observe):
    # Nobody holds half. Of six pairs 1 wins three, 2 two, 0 one by fewer in flight.
    policy = begun(DualMap())
    observation = dual_map_observation(observe, [0, 0, 0, 0], [50, 0, 10, 90])
    assert policy.act(observation).propensities == pytest.approx([1 / 6, 3 / 6, 2 / 6, 0])
    assert policy.counters() == {"missed": 1}
    # What 3 holds decides its three pairs; 0 against 2 is a coin.
    observation = dual_map_observation(observe, [0, 0, 0, 499], [50, 0, 50, 90])
    assert chances(DualMap(), observation) == pytest.approx([0.5 / 6, 2 / 6, 0.5 / 6, 3 / 6])


def test_dual_map_stays_with_the_holder_up_to_the_budget(observe):
    observation = dual_map_observation(observe, [500, 800, 0], [0, 65_336, 0])  # 65,336 + 200 = 65,536
    assert chances(DualMap(), observation) == [0, 1, 0]
    observation = dual_map_observation(observe, [500, 800, 0], [0, 65_337, 0])
    assert chances(DualMap(), observation) == [1, 0, 0]  # the other holder
    assert chances(DualMap(max_pending_tokens=70_000), observation) == [0, 1, 0]


def test_dual_map_draws_the_second_where_one_alone_holds_it(observe):
    # Beyond the budget, 1 leaves to 0 (drawn with one third); to 2 half the time, of equals; not to 3.
    observation = dual_map_observation(observe, [0, 800, 0, 0], [5, 70_000, 70_000, 80_000])
    assert chances(DualMap(), observation) == pytest.approx([1 / 3, 1 / 2, 1 / 6, 0])


def test_dual_map_alone(observe):
    assert chances(DualMap(), dual_map_observation(observe, [900], [90_000])) == [1]


def test_dual_map_of_holders_alike_is_the_better_of_two_of_them(observe):
    observation = dual_map_observation(observe, [600, 100, 600, 600], [9, 0, 4, 6])
    assert chances(DualMap(), observation) == pytest.approx([0, 0, 2 / 3, 1 / 3])
