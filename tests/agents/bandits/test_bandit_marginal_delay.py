import numpy as np
import pytest

from agents.bandits.marginal_delay import PRIOR, MarginalDelay
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.rollout import play
from envs import observation as table
from envs.emulator import fleet
from envs.observation import encode
from envs.routing import RoutingEnv
from envs.workload import generator

from .two_speed_fleet import outcome

ONLY_WORK = {**dict.fromkeys(PRIOR, 0.0), "own": 1.0, "ahead": 1.0}


def observation(ahead, uncached, num_prompt_tokens=1000, speeds=1000.0, arrivals_per_s=0.0, num_ahead=1):
    instances = np.zeros((len(ahead), len(table.INSTANCE_FEATURES)), np.float32)
    instances[:, table.NUM_IN_FLIGHT_UNCACHED_TOKENS] = ahead
    instances[:, table.NUM_IN_FLIGHT_PREFILLS] = num_ahead
    instances[:, table.NUM_UNCACHED_TOKENS] = uncached
    instances[:, table.PREFILL_TOKENS_PER_S] = speeds
    instances[:, table.NUM_KV_CACHE_TOKENS] = 1e6
    instances[:, table.PREFIX_CACHING] = 1.0
    request = np.zeros(len(table.REQUEST_FEATURES), np.float32)
    request[[table.NUM_PROMPT_TOKENS, table.ARRIVALS_PER_S]] = num_prompt_tokens, arrivals_per_s
    return {"instances": instances, "request": request, "mask": np.ones(len(ahead), np.int8)}


def make(**settings):
    policy = MarginalDelay(**settings)
    policy.reset(np.random.default_rng(0))
    return policy


def env():
    cluster = fleet.cluster(
        {name: {"count": 2, "profile": f"{name}_llama-3.1-8b"} for name in ("h100", "l40s")}
    )
    workload = generator.workload(
        num_generated=600, rate_per_s=8.0, max_model_len=32768, num_prefix_groups=16
    )
    return RoutingEnv(cluster, workload)


def test_costs_computed_by_hand():
    policy = make(prior=ONLY_WORK, home=0.0, prior_arrivals=4.0)
    seen = observation(
        ahead=[3000, 0], uncached=[200, 1000], speeds=[1000, 500], arrivals_per_s=0.6, num_ahead=[2, 0]
    )
    wait_s = 3.0 * 0.75  # the first of two is half done
    # Of 0.6 arrivals two thirds to the faster one, where however only two came within the wait.
    first_per_s, second_per_s = (2 + 4) / (wait_s + 4 / 0.4), (0 + 4) / (0.0 + 4 / 0.2)
    first = wait_s + 0.2 + first_per_s * (wait_s * 0.2 + 0.2**2 / 2)
    second = 0.0 + 2.0 + second_per_s * (0.0 + 2.0**2 / 2)
    np.testing.assert_allclose(policy.act(seen).scores, [-first, -second], rtol=1e-6)
    selfish = make(prior=ONLY_WORK, home=0.0, externality=0.0)
    np.testing.assert_allclose(selfish.act(seen).scores, [-2.45, -2.0], rtol=1e-6)


def credits(seen):
    plain, credited = (
        make(prior=ONLY_WORK, home=home, home_memory=8.0).act(seen).scores for home in (0.0, 3.0)
    )
    return credited - plain


def test_the_home_of_a_prefix_has_a_credit_for_a_while_after_it_is_gone():
    seen = observation(ahead=[0, 0, 0], uncached=[200, 200, 1000], speeds=[1000, 500, 500])
    seen["instances"][:2, [table.PREFIX_AGE_S, table.RECENT_TOKENS_PER_S]] = (
        2400,
        1e4,
    )  # turnovers: 24, of 8 as 3
    left = 0.8 / (1 + 23**2)
    np.testing.assert_allclose(make(prior=ONLY_WORK, home=0.0).act(seen).scores[0], left - 1.0, rtol=1e-5)
    np.testing.assert_allclose(credits(seen), [3 * 0.8 * 0.2, 3 * 1.6 * 0.2, 0.0], rtol=1e-5)  # 1 / (1 + 2^2)
    seen["instances"][:2, table.RECENT_TOKENS_PER_S] = 1e7
    np.testing.assert_allclose(credits(seen), 0.0, atol=1e-4)


def test_of_two_homes_the_one_used_last_has_more_credit():
    seen = observation(ahead=[0, 0], uncached=[200, 200])
    seen["instances"][:, table.RECENT_TOKENS_PER_S] = 1e4
    seen["instances"][:, table.PREFIX_AGE_S] = 1200, 2400
    older, newer = sorted(credits(seen))
    assert credits(seen).tolist() == [newer, older]
    assert newer > 2 * older


def test_where_nothing_is_cached_nothing_is_pushed_out():
    seen = observation(ahead=[0, 0, 0], uncached=[200, 1000, 1000])
    seen["instances"][2, table.PREFIX_CACHING] = 0.0
    np.testing.assert_allclose(credits(seen), [2.4, 0.0, 2.4], rtol=1e-5)


def test_among_other_routers_a_home_counts_by_the_share_of_what_it_sends():
    seen = observation(ahead=[0, 0], uncached=[200, 1000])
    seen["instances"][:, table.NUM_RUNNING], seen["instances"][:, table.NUM_IN_FLIGHT] = 4.0, 1.0
    np.testing.assert_allclose(credits(seen), [2.4 / 4, 0.0], rtol=1e-5)


def test_a_long_prompt_goes_where_few_wait():
    """Of two queues of as many tokens it joins that of one long prompt, and short ones keep to the other."""
    queues = {"ahead": [20_000, 20_000], "num_ahead": [1, 20], "arrivals_per_s": 2.0}
    long = observation(uncached=[8000, 8000], num_prompt_tokens=8000, **queues)
    long["instances"][0, table.NUM_IN_FLIGHT_UNCACHED_TOKENS] *= 1.95  # so that the wait is the same
    costs = -make(prior=ONLY_WORK, home=0.0).act(long).scores
    assert costs[0] < 0.95 * costs[1]
    evenly = -make(prior=ONLY_WORK, home=0.0, prior_arrivals=1e9).act(long).scores
    np.testing.assert_allclose(evenly[0], evenly[1], rtol=1e-6)
    long["instances"][0, table.NUM_IN_FLIGHT_UNCACHED_TOKENS] *= 1.3
    short = {**long, "instances": long["instances"].copy(), "request": long["request"].copy()}
    short["instances"][:, table.NUM_UNCACHED_TOKENS] = short["request"][table.NUM_PROMPT_TOKENS] = 200
    policy = make(prior=ONLY_WORK, home=0.0)
    assert policy.act(long).instance == 0
    assert policy.act(short).instance == 1


def test_fewer_come_to_where_the_wait_is_longer():
    """By hand: waits of 0, 2 and 4 s turn away by 1, 1/2 and 1/4; so many come of 3 per second."""
    seen = observation(ahead=[0, 4000, 8000], uncached=[1000] * 3, arrivals_per_s=3.0, num_ahead=1)
    policy = make(prior=ONLY_WORK, home=0.0, prior_arrivals=1e12, avoidance_per_s=np.log(2) / 2)
    wait_s, come_per_s = np.array([0.0, 2.0, 4.0]), 3.0 * np.array([4, 2, 1]) / 7
    np.testing.assert_allclose(-policy.act(seen).scores, wait_s + 1 + come_per_s * (wait_s + 0.5), rtol=1e-6)


def test_work_that_a_match_saves_is_worth_more_where_others_come():
    """Alone it goes where its first token comes first, among many to who has its prefix."""
    seen = observation(ahead=[3800, 2000], uncached=[100, 900], arrivals_per_s=0.0)
    assert make(prior=ONLY_WORK, home=0.0).act(seen).instance == 1
    seen["request"][table.ARRIVALS_PER_S] = 4.0
    assert make(prior=ONLY_WORK, home=0.0).act(seen).instance == 0


def test_first_request_goes_to_the_least_work():
    assert make().act(observation(ahead=[500, 0, 900], uncached=[1000] * 3)).instance == 1


def test_learns_the_weights_of_what_it_waits_for():
    """Prefill at twice the profile's speed, the head of the queue half done, 50 ms for everything else."""
    rng, policy = np.random.default_rng(0), make(pace_memory=0.0, forgetting=1.0)
    for _ in range(2000):
        num_tokens, ahead = (int(number) for number in rng.integers(100, 5000, 2))
        seen = observation([ahead], [num_tokens], num_tokens)
        row = encode(*(seen[name] for name in ("instances", "request", "mask")))[0]
        policy.learn(row, 0.5 * num_tokens / 1000 + 0.5 * ahead / 2 / 1000 + 0.05)
    cost_s = -policy.act(observation([2000], [1000], 1000)).scores[0]
    np.testing.assert_allclose(cost_s, 0.5 + 0.5 + 0.05, rtol=0.05)


def test_learns_that_matches_are_gone():
    policy = make(prior=ONLY_WORK, home=0.0, pace_memory=0.0, ridge=1e6)
    seen = observation(ahead=[0], uncached=[200])
    seen["instances"][:, [table.PREFIX_AGE_S, table.RECENT_TOKENS_PER_S]] = (
        150,
        1e4,
    )  # turnovers: one and a half
    before = policy.act(seen)
    np.testing.assert_allclose(before.scores, [-0.2 - 0.8 * 0.2], rtol=1e-6)  # 1 / (1 + (0.5 / 1)^2) is left
    for _ in range(300):
        policy.observe([outcome(policy._pending._next_id - 1, before, 1.0)])  # num_cached_tokens is 0
        before = policy.act(seen)
    assert before.scores[0] < -0.9


def test_an_instance_that_is_slow_of_late_is_avoided_and_another_episode_begins_anew():
    policy = make()
    seen = observation(ahead=[0, 0], uncached=[1000, 1000])
    for number in range(60):
        decision = policy.act(seen)
        policy.observe([outcome(number, decision, (4.0, 1.0)[decision.instance])])
    assert policy.act(seen).instance == 1
    policy.reset(np.random.default_rng(0))
    assert policy.act(seen).propensities.tolist() == [0.5, 0.5]


def test_routes_a_mixed_fleet_better_than_the_rule_from_the_start():
    world = env()
    rule, policy = (play(world, each, 0).ledger["ttft_s"] for each in (LlmdTokenLoad(), MarginalDelay()))
    assert policy.mean() < 0.9 * rule.mean()
    assert policy[:100].mean() < rule[:100].mean()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prior", {"own": 1.0}),
        ("externality", -1.0),
        ("prior_arrivals", 0.0),
        ("home", -1.0),
        ("home_memory", 0.0),
        ("pace_memory", -1.0),
        ("max_ttft_s", 0.0),
        ("half_turnovers", 1.0),
        ("ridge", 0.0),
        ("max_pending", 0),
    ],
)
def test_refuses_bad_settings_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        MarginalDelay(**{name: value})
