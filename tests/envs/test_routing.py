import warnings

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401 (registers the environment)
from envs import observation as columns
from envs.cluster import Events, Request
from envs.emulator.fleet import cluster
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES
from envs.routing import MaskedActionError, NoInstanceError, RoutingEnv
from envs.workload import generator, sessions
from reward.e2e import E2e
from reward.slo_miss import SloMiss
from reward.tpot import Tpot
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

FLEET = {
    "h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072},
    "l40s": {"count": 1, "profile": "l40s_llama-3.1-8b", "max_model_len": 32768, "prefix_caching": False},
}


class Requests:
    """An open-loop workload of given requests."""

    closed_loop = False
    block_size = 16
    notes = ()

    def __init__(self, requests):
        self.requests = requests
        self.reset(None)

    num_requests = property(lambda self: len(self.requests))
    exhausted = property(lambda self: self.next == len(self.requests))

    def reset(self, rng):
        self.next = 0

    def next_arrival_at_s(self):
        return self.requests[self.next].arrived_at_s if not self.exhausted else np.inf

    def pop(self):
        self.next += 1
        return self.requests[self.next - 1]

    def observe(self, completion):
        pass


def small(rewards=None, workload=None, fleet=FLEET, scrape_interval_s=0.1, **options):
    workload = workload or generator.workload(num_generated=150, rate_per_s=10.0, num_tenants=3)
    terms = rewards or {"ttft": Ttft()}
    return RoutingEnv(
        cluster(fleet, scrape_interval_s=scrape_interval_s),
        workload,
        WeightedSum({name: Weighted(term) for name, term in terms.items()}),
        **options,
    )


def play(env, seed=0, choice_seed=0):
    """Route at random; return observations, rewards, unweighted amounts and feedback."""
    rng = np.random.default_rng(choice_seed)
    observation, _ = env.reset(seed=seed)
    observations, rewards, amounts, feedback = [observation], [], [], []
    done = False
    while not done:
        instance = rng.choice(np.flatnonzero(observation["mask"]))
        observation, reward, done, truncated, info = env.step(instance)
        assert not truncated
        observations.append(observation)
        rewards.append(reward)
        amounts.append(info["reward"])
        feedback.extend(info["completions"])
    return observations, rewards, amounts, feedback


def test_gymnasium_check_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("RouteGym/Routing-v0").unwrapped)


def test_sb3_check_without_warnings():
    env = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3.check_env(gymnasium.wrappers.FlattenObservation(env))
        # One row per instance is the contract, and agents/rl brings the policy that SB3 asks for here.
        warnings.filterwarnings("ignore", message="Your observation instances has an unconventional shape")
        sb3.check_env(env)


def test_columns_are_named_as_in_the_table():
    for features in (INSTANCE_FEATURES, REQUEST_FEATURES):
        for index, feature in enumerate(features):
            assert getattr(columns, feature.name.upper()) == index


def test_equal_seed_equal_bytes():
    first, again = play(small(), seed=3), play(small(), seed=3)
    for a, b in zip(first[0], again[0], strict=True):
        assert all(a[key].tobytes() == b[key].tobytes() for key in a)
    assert repr(first[1:]) == repr(again[1:])
    random_start = [
        small(workload=generator.workload(num_generated=300, num_requests=100, start="random"))
        for _ in range(2)
    ]
    assert play(random_start[0], seed=3)[1] != play(random_start[1], seed=4)[1]


@pytest.mark.parametrize("closed_loop", [False, True])
def test_rewards_sum_to_latencies(closed_loop):
    workload = sessions.workload(num_sessions=12, sessions_per_s=2.0, turns_median=3) if closed_loop else None
    terms = {
        "ttft": Ttft(),
        "ttft_late": Ttft("at_completion"),
        "e2e": E2e(),
        "e2e_late": E2e("at_completion"),
        "tpot": Tpot(),
        "slo_miss": SloMiss(),
    }
    env = small(terms, workload)
    _, rewards, amounts, feedback = play(env)
    sums = {name: sum(amount[name] for amount in amounts) for name in terms}
    ttft_s = sum(outcome.ttft_s for outcome in feedback)
    e2e_s = sum(outcome.e2e_s for outcome in feedback)
    assert sums["ttft"] == pytest.approx(-ttft_s, rel=1e-9)
    assert sums["ttft_late"] == pytest.approx(-ttft_s, rel=1e-9)
    assert sums["e2e"] == pytest.approx(-e2e_s, rel=1e-9)
    assert sums["e2e_late"] == pytest.approx(-e2e_s, rel=1e-9)
    assert sums["tpot"] == pytest.approx(-sum(outcome.tpot_s for outcome in feedback), rel=1e-9)
    assert sums["slo_miss"] == -sum(not outcome.slo_met for outcome in feedback)
    assert sum(rewards) == pytest.approx(sum(sums.values()), rel=1e-9)


def test_every_decision_gets_its_feedback_once():
    env = small()
    env.reset(seed=0)
    instances, feedback, done = [], [], False
    while not done:
        instance = int(np.flatnonzero(env.action_masks())[-1])
        env.declare_propensity(0.25)
        instances.append(instance)
        _, _, done, _, info = env.step(instance)
        feedback.extend(info["completions"])
    assert sorted(outcome.decision_id for outcome in feedback) == list(range(150))
    for outcome in feedback:
        assert outcome.instance == instances[outcome.decision_id]
        assert outcome.propensity == 0.25
        assert outcome.e2e_s >= outcome.ttft_s > 0


def test_observations_lie_in_their_space():
    env = small(max_instances=5, prefix_hits="exact")
    observations, *_ = play(env)
    for observation in observations:
        assert env.observation_space.contains(observation)
        assert not observation["mask"][3:].any()
        assert not observation["instances"][3:].any()
    hits = np.array([observation["instances"][:3, columns.FRAC_PREFIX_HIT] for observation in observations])
    assert hits[:, :2].max() > 0.3
    assert hits[:, 2].max() == 0.0  # no prefix caching there


def test_scraped_values_are_old_and_router_counts_fresh():
    requests = [Request(index, 0.25 * index, 512, 2000) for index in range(9)]
    env = small(workload=Requests(requests), scrape_interval_s=1.0)
    observation, _ = env.reset(seed=0)
    for index in range(1, 9):
        observation, *_ = env.step(0)
        row = observation["instances"][0]
        assert row[columns.NUM_IN_FLIGHT] == index
        assert row[columns.SNAPSHOT_AGE_S] == pytest.approx(0.25 * (index % 4))
        assert row[columns.NUM_RUNNING] == 4 * (index // 4)
        assert row[columns.NUM_SENT_SINCE_SCRAPE] == index % 4
        assert row[columns.NUM_TOKENS_SENT_SINCE_SCRAPE] == 512 * (index % 4)
        assert row[columns.NUM_IN_FLIGHT_PREFILLS] == 0  # each has its first token within 0.25 s
        assert row[columns.NUM_IN_FLIGHT_DECODE_TOKENS] == 512 * index


def test_prefix_hit_is_estimated_from_what_was_sent():
    hashes = np.arange(1, 129)  # 2048 tokens of 16-token blocks
    requests = [Request(0, 0.0, 2048, 1, hashes), Request(1, 5.0, 2048, 1, hashes)]
    env = small(workload=Requests(requests))
    env.reset(seed=0)
    observation, *_ = env.step(1)
    rows = observation["instances"]
    assert rows[1, columns.FRAC_PREFIX_HIT] == pytest.approx(2047 / 2048)
    assert rows[1, columns.NUM_UNCACHED_TOKENS] == 1
    assert rows[1, columns.PREFIX_AGE_S] == 5.0
    assert rows[0, columns.FRAC_PREFIX_HIT] == 0
    assert rows[0, columns.NUM_UNCACHED_TOKENS] == 2048
    assert rows[1, columns.RECENT_TTFT_S] > 0
    assert rows[1, columns.RECENT_TOKENS_PER_S] > 0


def test_masked_instance_is_refused():
    env = small(workload=Requests([Request(0, 0.0, 40_000, 10)]), max_instances=4)
    observation, _ = env.reset(seed=0)
    assert observation["mask"].tolist() == [1, 1, 0, 0]  # the L40S takes less than 32768, row 3 is not there
    for instance in (2, 3, 4, -1):
        with pytest.raises(MaskedActionError, match=f"instance {instance} is masked for request 0"):
            env.step(instance)
    env.step(1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(1)


def test_request_that_fits_nowhere_is_named():
    env = small(workload=Requests([Request(7, 0.0, 200_000, 10)]))
    with pytest.raises(NoInstanceError, match=r"request 7 \(200000 prompt tokens\) can go to no instance"):
        env.reset(seed=0)


def test_empty_workload_is_named():
    with pytest.raises(ValueError, match="the workload has no request"):
        small(workload=Requests([])).reset(seed=0)


def test_zero_token_prompt_is_refused_where_it_is_made():
    with pytest.raises(
        ValueError, match="request 3 has 0 prompt and 5 output tokens; both must be at least 1"
    ):
        Request(3, 0.0, 0, 5)
    with pytest.raises(ValueError, match="request 3 has 5 prompt and 0 output tokens"):
        Request(3, 0.0, 5, 0)


def test_block_sizes_must_agree():
    with pytest.raises(ValueError, match="the workload's block_size is 32 and the cluster's 16"):
        small(workload=generator.workload(num_generated=10, block_size=32))


def test_before_reset_and_after_the_end():
    env = small(workload=Requests([Request(0, 0.0, 100, 10)]), render_mode="ansi")
    for early in (env.action_masks, env.render, lambda: env.step(0)):
        with pytest.raises(gymnasium.error.ResetNeeded):
            early()
    env.reset(seed=0)
    observation, _, done, _, _ = env.step(0)
    assert done
    assert observation["instances"][0, columns.NUM_IN_FLIGHT] == 0
    assert " 0 " in env.render()


class Failing:
    """A cluster whose first request fails before its first token, and the second after it."""

    def __init__(self, cluster):
        self.inner = cluster

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def _failed(self, events):
        completions = []
        for completion in events.completions:
            if completion.request_id == 0:
                completion = completion._replace(
                    first_token_at_s=np.nan, finished_at_s=np.nan, num_output_tokens=0, failure="lost"
                )
            if completion.request_id == 1:
                completion = completion._replace(finished_at_s=np.nan, num_output_tokens=0, failure="cut")
            completions.append(completion)
        return Events([token for token in events.first_tokens if token.request_id != 0], completions)

    def advance_to(self, time_s, stop_at_completion=False):
        return self._failed(self.inner.advance_to(time_s, stop_at_completion))

    def drain(self):
        return self._failed(self.inner.drain())


def test_failed_requests_count_as_misses_and_leave_no_trace():
    terms = {
        "ttft": Ttft(),
        "e2e": E2e(),
        "tpot": Tpot(),
        "slo_miss": SloMiss(),
        "late": Ttft("at_completion"),
    }
    requests = [Request(index, 0.5 * index, 512, 20) for index in range(4)]
    env = small(terms, Requests(requests))
    env.cluster = Failing(env.cluster)
    env.reset(seed=0)
    done, sums, feedback = False, dict.fromkeys(terms, 0.0), []
    while not done:
        observation, reward, done, _, info = env.step(0)
        assert np.isfinite(reward)
        feedback += info["completions"]
        for name, amount in info["reward"].items():
            sums[name] += amount
    assert [outcome.failure for outcome in feedback] == ["lost", "cut", "", ""]
    served = [outcome for outcome in feedback if not outcome.failure]
    # The lost one counts as waiting to the end of the interval in which that was learned: 0.5 s here.
    assert sums["ttft"] == pytest.approx(-sum(outcome.ttft_s for outcome in feedback[1:]) - 0.5)
    assert sums["e2e"] == pytest.approx(-sum(outcome.e2e_s for outcome in served) - 0.5 - 0.5)
    assert sums["late"] == pytest.approx(-sum(outcome.ttft_s for outcome in served))
    assert sums["slo_miss"] == -2
    assert not observation["instances"][
        0, columns.NUM_IN_FLIGHT : columns.NUM_IN_FLIGHT_DECODE_TOKENS + 1
    ].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_instances": 2}, "the cluster has 3 instances and max_instances is 2"),
        ({"prefix_hits": "guessed"}, "prefix_hits is 'guessed'"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
        ({"half_life_s": 0.0}, "half_life_s is 0.0"),
        ({"prefix_tokens_per_key": 40}, "prefix_tokens_per_key is 40"),
        ({"prefix_capacity": 0}, r"prefix_capacity \(0\)"),
        ({"prefix_max_age_s": 0.0}, r"prefix_max_age_s \(0.0\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_renders():
    env = small(render_mode="ansi")
    env.reset(seed=0)
    env.step(0)
    text = env.render()
    assert len(text.splitlines()) == 2 + 3
    env = small(render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (480, 800, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture)) > 2
