"""Rules that keep what they go by: what they make of earlier decisions and outcomes, worked out by hand."""

import math

import numpy as np
import pytest

from agents.heuristics.aibrix_least_latency import AibrixLeastLatency
from agents.heuristics.aibrix_load_balance import AibrixLoadBalance
from agents.heuristics.aibrix_preble import AibrixPreble, prefill_s
from agents.heuristics.ray_prefix import RayPrefix
from agents.heuristics.sticky_least_loaded import StickyLeastLoaded
from agents.heuristics.vtc import Vtc
from agents.heuristics.window import Window
from tests.agents.heuristics.begun import begun, chances, ended


def act(policy, observation):
    return policy.act(observation).propensities.tolist()


def test_window_forgets_by_the_clock_of_the_outcomes():
    window = Window(10.0)
    window.add(7, 1.0)
    window.advance([ended(at_s=4.0, e2e_s=3.0)])  # arrived at 1
    window.add(7, 2.0)
    assert (window.totals[7], window.counts[7]) == (3.0, 2)
    window.advance([ended(at_s=10.9), ended(at_s=10.0)])
    assert window.totals[7] == 3.0
    window.advance([ended(at_s=11.0)])
    assert (window.totals[7], window.counts[7]) == (2.0, 1)  # the first counted from 1 on
    window.advance([ended(at_s=14.0), ended(at_s=math.nan)])
    assert dict(window.totals) == dict(window.counts) == {}


def test_load_balance_divides_by_the_drain_rate(observe):
    policy = begun(AibrixLoadBalance())
    observation = observe(num_in_flight=[4, 5, 6])
    policy.observe([ended(instance=1, at_s=at_s) for at_s in (1.0, 5.0, 9.0)])
    assert act(policy, observation) == [1, 0, 0]  # 9 s known from the first arrival on: no rates yet
    policy.observe([ended(instance=instance, at_s=20.0) for instance in (0, 1, 1, 1)])
    # Over 20 s: [1, 6, none] / 20 s = [0.05, 0.3, 1] per second: [80, 16.7, 6] s
    assert act(policy, observation) == [0, 0, 1]
    assert act(policy, observe(num_in_flight=[4, 5, 6], mask=[1, 1, 0])) == [0, 1, 0]
    policy.observe([ended(instance=0, at_s=80.0)])  # of the last minute only this one
    assert act(policy, observe(num_in_flight=[1, 8, 100], mask=[1, 1, 0])) == [0, 1, 0]  # [60, 8] s


def test_load_balance_breaks_ties_by_the_cache(observe):
    observation = observe(num_in_flight=[2, 2, 3, 2], frac_kv_cache_usage=[0.5, 0.25, 0, 0.25])
    assert chances(AibrixLoadBalance(), observation) == [0, 0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("num_in_flight", "instance"),
    [([9, 2], 0), ([10, 2], 1), ([14, 6, 6], 0), ([16, 6, 7], 1), ([16, 7, 6], 2)],
)
def test_load_balance_has_a_gate(observe, num_in_flight, instance):
    # The first instance drains fastest, so that it is chosen but for the gate; 14 = 2 * (6 + 1) is even.
    policy = begun(AibrixLoadBalance())
    policy.observe([ended(instance=index, at_s=20.0, e2e_s=20.0) for index in [0] * 2000 + [1, 2]])
    assert policy.act(observe(num_in_flight=num_in_flight)).instance == instance


def test_least_latency_scales_to_the_mean_request(observe):
    policy, observation = begun(AibrixLeastLatency()), observe(mask=[1, 1, 1])
    assert act(policy, observation) == [0, 0, 1]
    policy.observe(
        [
            ended(instance=0, prompt=100, output=10, ttft_s=1.0, e2e_s=3.0),
            ended(instance=0, prompt=300, output=30, ttft_s=2.0, e2e_s=4.0),
            ended(instance=1, prompt=1000, output=80, ttft_s=3.0, e2e_s=11.0),
            ended(instance=1, failure="instance failed", ttft_s=math.nan, e2e_s=math.nan),
        ]
    )
    assert act(policy, observation) == [0, 0, 1]  # nothing known of it: 0 s
    # P = (200 + 1000) / 2 = 600, G = (20 + 80) / 2 = 50
    # [1.5 / 200 * 600 + 2 / 20 * 50, 3 / 1000 * 600 + 8 / 80 * 50]
    decision = policy.act(observe(mask=[1, 1, 0]))
    assert decision.instance == 1  # [9.5, 6.8] s
    policy.observe([ended(instance=1, prompt=1000, output=0, ttft_s=30.0, e2e_s=30.0)])
    # P = 600, G = (20 + 40) / 2 = 30
    # [1.5 / 200 * 600 + 2 / 20 * 30, 16.5 / 1000 * 600 + 4 / 40 * 30] = [7.5, 12.9]
    assert policy.act(observe(mask=[1, 1, 0])).instance == 0


def test_preble_prefill_times():
    # aibrix's regressions for a V100, by hand: ms / 0.9
    assert prefill_s(100, 500) == pytest.approx((55 + 0.80) / 900)
    assert prefill_s(200, 2000) == pytest.approx((-295 + 625 - 256 + (0.93 + 0.398) / 2) / 900)
    assert prefill_s(1000, 1000) == pytest.approx((271.06428 + 10.52444263 + 0.80) / 900)
    assert prefill_s(5000, 8000) == pytest.approx(
        (1355.3214 + 10.52444263 + 3.72 + 0.398 - 18.425 + 48.25 + 135.0) / 900
    )


def test_preble_explores_by_what_was_sent(observe):
    policy = begun(AibrixPreble())

    def send(prompt, uncached, match):
        observation = observe(
            num_uncached_tokens=uncached, frac_prefix_hit=match, request={"num_prompt_tokens": prompt}
        )
        return policy.act(observation)

    none = [0.0, 0.0]
    assert send(1000, [1000, 1000], none).instance == 0  # 6.75 s + prefill_s(1000, 1000) = 7.064 s
    assert send(200, [200, 200], none).instance == 1  # 6.75 s + prefill_s(200, 200) = 6.833 s
    assert send(100, [100, 100], none).instance == 1  # the cheaper one so far; now it has 13.6 s
    assert send(100, [100, 100], none).instance == 0
    # 60 of 100 tokens held by both: the one that was sent less of late, both two now
    assert send(100, [40, 40], [0.6, 0.6]).propensities.tolist() == [0.5, 0.5]
    assert policy.counters() == {"explored": 4}


def test_preble_forgets_after_three_minutes(observe):
    policy, observation = begun(AibrixPreble()), observe(mask=[1, 1], request={"num_prompt_tokens": 100})
    policy.observe([ended(at_s=1.0)])
    assert policy.act(observation).instance == 0
    policy.observe([ended(at_s=180.9)])
    assert policy.act(observation).instance == 1
    policy.observe([ended(at_s=181.1)])
    assert policy.act(observation).instance == 0


def test_preble_looks_at_the_least_loaded_where_load_is_uneven(observe):
    policy = begun(AibrixPreble())
    observation = observe(num_in_flight=[10, 1, 1], frac_prefix_hit=[0.9, 0.7, 0.6])
    assert act(policy, observation) == [0, 1, 0]  # the longest match of those
    assert act(policy, observe(num_in_flight=[9, 1, 1], frac_prefix_hit=[0.9, 0.7, 0.6])) == [1, 0, 0]
    assert policy.counters() == {"imbalanced": 1}


def test_ray_takes_the_longest_match_or_the_smallest_tree(observe):
    policy = begun(RayPrefix())
    observation = observe(
        num_in_flight=[3, 5, 1], frac_prefix_hit=[0.5, 0.5, 0.4], num_uncached_tokens=[50, 50, 60]
    )
    assert act(policy, observation) == [1, 0, 0]
    # A match of 0.1 counts, one below goes to the fewest new tokens: [50, 0, 0] of them
    assert act(policy, observe(num_in_flight=[9, 0, 0], frac_prefix_hit=[0.1, 0.09, 0])) == [1, 0, 0]
    missed = observe(num_in_flight=[0, 7, 8], num_uncached_tokens=[30, 30, 30])
    assert act(policy, missed) == [0, 1, 0]
    assert act(policy, missed) == [0, 0, 1]  # [50, 30, 0]
    assert act(policy, missed) == [0, 1, 0]  # [50, 30, 30]
    assert policy.counters() == {"missed": 3}


def test_ray_draws_two_where_load_is_uneven(observe):
    observation = observe(num_in_flight=[5, 1, 3, 5], frac_prefix_hit=[0.9, 0, 0, 0])
    assert chances(RayPrefix(), observation) == [1, 0, 0, 0]
    assert chances(RayPrefix(imbalance=4), observation) == [1, 0, 0, 0]
    expected = [0.5 / 6, 3 / 6, 2 / 6, 0.5 / 6]  # as power of two
    assert chances(RayPrefix(imbalance=3), observation) == pytest.approx(expected)


def test_sessions_stay_and_new_ones_go_where_the_fewest_are(observe):
    policy = begun(StickyLeastLoaded())

    def send(session, mask=(1, 1, 1)):
        return policy.act(observe(mask=mask, request={"session_key": session})).instance

    homes = [send(session) for session in range(9)]
    assert np.bincount(homes).tolist() == [3, 3, 3]
    assert [send(session) for session in range(9)] == homes
    # Those of an instance that goes are spread, and stay where they are when it is back.
    others = [int(index != homes[0]) for index in range(3)]
    moved = [send(session, others) for session in range(9)]
    assert [moved[s] for s in range(9) if homes[s] != homes[0]] == [h for h in homes if h != homes[0]]
    assert sorted(np.bincount(moved, minlength=3).tolist()) == [0, 4, 5]
    assert policy.counters() == {"moved": 3}
    assert send(100) == homes[0]
    assert [send(session) for session in range(9)] == moved


def test_sessions_are_forgotten_when_nobody_uses_them(observe):
    policy = begun(StickyLeastLoaded(session_s=100.0))

    def look(session):
        return observe(mask=[1, 1], request={"session_key": session})

    policy.observe([ended(at_s=1.0)])
    first, second = policy.act(look(1)).instance, policy.act(look(2)).instance
    assert {first, second} == {0, 1}
    policy.observe([ended(at_s=60.0)])
    policy.act(look(2))
    policy.observe([ended(at_s=102.0)])  # session 1 was last used at 1
    assert policy.act(look(3)).instance == first
    assert act(policy, look(-1)) == [0.5, 0.5]
    assert policy.counters() == {"without_session": 1}


def test_vtc_sends_heavy_users_to_the_last(observe):
    policy = begun(Vtc())

    def user(share, running=(0, 0, 0, 0)):
        return act(policy, observe(num_running=running, request={"frac_tenant_share": share}))

    assert user(1.0) == [1, 0, 0, 0]  # nobody had any tokens
    policy.observe([ended(tenant=0, prompt=5000, output=500), ended(tenant=1, prompt=1000, output=500)])
    # Tokens [6000, 2000] of 8000, bucket 4000: users of 3/4, 1/4 and all want the places 1.5, 0.5 and 2.
    assert user(0.75) == pytest.approx([0, 0.5, 0.5, 0])
    assert user(0.25) == pytest.approx([0.5, 0.5, 0, 0])
    assert user(1.0) == [0, 0, 1, 0]
    # 5 running are 0.05, half of the noise: 1/8 of the pairs of noise turn it round.
    assert user(0.75, (0, 5, 0, 0)) == pytest.approx([0, 1 / 8, 7 / 8, 0])
    policy.observe([ended(at_s=400.0, tenant=2, prompt=100, output=200)])  # the others are forgotten
    assert user(1.0) == pytest.approx([0.5, 0.5, 0, 0])  # 500 tokens are half of the least bucket


def test_vtc_noise_by_drawing(observe):
    policy = begun(Vtc(fairness_weight=0.0))
    observation = observe(num_running=[0, 3, 6, 9, 12])
    rng = np.random.default_rng(0)
    drawn = (np.array([0, 0.03, 0.06, 0.09, 0.12]) + 0.1 * rng.random((200_000, 5))).argmin(axis=1)
    expected = np.bincount(drawn, minlength=5) / 200_000
    assert act(policy, observation) == pytest.approx(expected, abs=0.005)
