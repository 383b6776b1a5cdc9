"""Routing while instances fail: retries, what they cost, and where requests go when nobody is healthy."""

from collections import Counter

import numpy as np
import pytest

from envs import observation as columns
from envs.cluster import Request
from envs.emulator.fleet import cluster
from envs.routing import NoInstanceError, RoutingEnv
from envs.workload import generator, sessions
from envs.world import Schedule, World
from reward.e2e import E2e
from reward.slo_miss import SloMiss
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

from .test_routing import FLEET, Requests

FAILING = World(mean_time_to_failure_s=6.0, downtime_s=1.0, cold_start_s=1.0)
FAR = World(
    mean_time_to_failure_s=6.0, downtime_s=1.0, cold_start_s=1.0, network_delay_s=0.03, network_jitter_s=0.02
)
TERMS = {
    "ttft": Ttft(),
    "ttft_late": Ttft("at_completion"),
    "e2e": E2e(),
    "e2e_late": E2e("at_completion"),
    "slo_miss": SloMiss(),
}


def disturbed(world, workload=None, **options):
    workload = workload or generator.workload(
        num_generated=200,
        rate_per_s=10.0,
        prompt_median=1000,
        prompt_max=4000,
        output_median=40,
        output_max=200,
    )
    reward = WeightedSum({name: Weighted(term) for name, term in TERMS.items()})
    return RoutingEnv(cluster(FLEET, world=world), workload, reward, **options)


def play(env, seed=0):
    """Route at random; return observations, unweighted amounts and, per step, its feedback and its end."""
    rng = np.random.default_rng(1)
    observation, _ = env.reset(seed=seed)
    observations, amounts, steps = [observation], [], []
    done = False
    while not done:
        observation, _, done, _, info = env.step(rng.choice(np.flatnonzero(observation["mask"])))
        observations.append(observation)
        amounts.append(info["reward"])
        steps.append((info["completions"], info["time_s"]))
    return observations, amounts, steps


def closed_loop():
    return sessions.workload(
        num_sessions=25,
        sessions_per_s=3.0,
        turns_median=4,
        new_max=2000,
        output_median=40,
        output_max=200,
        pause_median_s=0.5,
        pause_max_s=5,
    )


@pytest.mark.parametrize("world", [FAILING, FAR])
@pytest.mark.parametrize("max_retries", [0, 1, 4])
@pytest.mark.parametrize("workload", [None, closed_loop])
def test_rewards_sum_to_latencies_of_the_served_and_nothing_is_lost(world, max_retries, workload):
    env = disturbed(world, workload and workload(), max_retries=max_retries)
    observations, amounts, steps = play(env)
    feedback = [outcome for known, _ in steps for outcome in known]
    assert sorted(outcome.decision_id for outcome in feedback) == list(range(len(steps)))
    final = [outcome for outcome in feedback if not outcome.is_retried]
    served = [outcome for outcome in final if not outcome.failure]
    assert 3 < sum(bool(outcome.failure) for outcome in feedback) < len(feedback)
    if workload is None:
        assert len(final) == 200
    # Requests, known by their arrival, are decided once and again after every failure, at most so often.
    attempts = Counter(outcome.arrived_at_s for outcome in feedback)
    assert len(attempts) == len(final)
    for outcome in final:
        assert attempts[outcome.arrived_at_s] == outcome.num_retries + 1
        assert outcome.num_retries == max_retries or not outcome.failure
    if max_retries == 4 and workload is None:  # some had begun to answer, which counts for nothing
        assert any(np.isfinite(outcome.ttft_s) for outcome in feedback if outcome.is_retried)
    assert all(
        outcome.failure and outcome.num_retries < max_retries for outcome in feedback if outcome.is_retried
    )

    sums = {name: sum(amount[name] for amount in amounts) for name in TERMS}
    served_ttft_s, served_e2e_s = (sum(getattr(o, name) for o in served) for name in ("ttft_s", "e2e_s"))
    # One that is lost waits to its first token, or to the end of the interval in which its loss was learned.
    lost = [(o, ends_at_s - o.arrived_at_s) for known, ends_at_s in steps for o in known if o.failure]
    lost = [(o, in_flight_s) for o, in_flight_s in lost if not o.is_retried]
    lost_ttft_s = sum(in_flight_s if np.isnan(o.ttft_s) else o.ttft_s for o, in_flight_s in lost)
    assert sums["ttft"] == pytest.approx(-served_ttft_s - lost_ttft_s, rel=1e-9)
    assert sums["ttft_late"] == pytest.approx(-served_ttft_s, rel=1e-9)
    assert sums["e2e"] == pytest.approx(-served_e2e_s - sum(s for _, s in lost), rel=1e-9)
    assert sums["e2e_late"] == pytest.approx(-served_e2e_s, rel=1e-9)
    assert sums["slo_miss"] == -sum(not outcome.slo_met for outcome in final)
    assert not observations[-1]["instances"][
        :, columns.NUM_IN_FLIGHT : columns.NUM_IN_FLIGHT_DECODE_TOKENS + 1
    ].any()


def same(first, again):
    return all(
        a[key].tobytes() == b[key].tobytes() for a, b in zip(first[0], again[0], strict=True) for key in a
    ) and (repr(first[1:]) == repr(again[1:]))


@pytest.mark.parametrize("workload", [None, closed_loop])
def test_equal_seed_equal_bytes(workload):
    def run(seed):
        options = {"max_retries": 2, "num_routers": 3}
        return play(disturbed(FAR, workload and workload(), **options), seed)

    assert same(run(3), run(3))
    assert repr(run(3)[2]) != repr(run(4)[2])


@pytest.mark.parametrize("workload", [None, closed_loop])
def test_knobs_that_are_off_change_nothing(workload):
    plain = play(disturbed(None, workload and workload()))
    assert same(plain, play(disturbed(World(), workload and workload())))
    assert same(plain, play(disturbed(World(), workload and workload(), max_retries=5)))
    assert same(plain, play(disturbed(None, workload and workload(), max_retries=5)))
    assert same(
        plain, play(disturbed(None, workload and workload(), num_routers=1, router_affinity="session"))
    )


def killed(*instances, at_s=0.1):
    return Schedule([{"at_s": at_s, "instance": instance, "what": "fail"} for instance in instances])


def test_a_retry_is_decided_when_the_failure_is_learned():
    requests = [Request(0, 0.0, 512, 500), Request(1, 5.0, 512, 5)]
    env = disturbed(World(schedule=killed(0), network_delay_s=0.02), Requests(requests), max_retries=1)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(0)  # fails at 0.1, learned at 0.12
    assert info["time_s"] == pytest.approx(0.12)
    (failed,) = info["completions"]
    assert (failed.decision_id, failed.instance, failed.failure) == (0, 0, "instance failed")
    assert (failed.is_retried, failed.num_retries, failed.arrived_at_s) == (True, 0, 0.0)
    assert observation["request"][columns.NUM_PROMPT_TOKENS] == 512
    assert observation["mask"].tolist() == [0, 1, 1]  # the scrape at that instant has found it dead
    assert observation["instances"][0, columns.NUM_IN_FLIGHT] == 0
    _, _, _, _, info = env.step(1)
    (served,) = info["completions"]
    assert (served.decision_id, served.instance, served.failure) == (1, 1, "")
    assert (served.is_retried, served.num_retries, served.arrived_at_s) == (False, 1, 0.0)
    assert served.ttft_s > 0.12


def test_when_nobody_is_healthy_all_that_fit_are_offered_and_fail():
    requests = [Request(0, 0.0, 512, 5), Request(1, 1.0, 512, 5), Request(2, 2.0, 40_000, 5)]
    env = disturbed(World(schedule=killed(0, 1, 2, at_s=0.5)), Requests(requests))
    env.reset(seed=0)
    observation, *_ = env.step(0)
    assert observation["mask"].tolist() == [1, 1, 1]
    observation, _, _, _, info = env.step(0)
    assert [outcome.failure for outcome in info["completions"]] == ["connection refused"]
    assert observation["mask"].tolist() == [1, 1, 0]  # the third takes no prompt so long
    _, _, done, _, info = env.step(1)
    assert done
    assert [outcome.failure for outcome in info["completions"]] == ["connection refused"]


def test_a_dead_instance_is_masked_from_the_next_scrape_on():
    requests = [Request(number, 0.05 * number, 512, 5) for number in range(12)]
    env = disturbed(World(schedule=killed(0, at_s=0.22)), Requests(requests))
    observation, _ = env.reset(seed=0)
    masks = [observation["mask"].tolist()]
    done = False
    while not done:
        observation, _, done, *_ = env.step(1)
        masks.append(observation["mask"].tolist())
    assert masks[:6] == [[1, 1, 1]] * 6  # to 0.25 s
    assert masks[6:12] == [[0, 1, 1]] * 6


def test_a_prompt_too_long_for_all_is_still_named():
    env = disturbed(World(schedule=killed(0, 1, 2, at_s=0.0)), Requests([Request(0, 1.0, 200_000, 5)]))
    with pytest.raises(NoInstanceError, match=r"request 0 \(200000 prompt tokens\) can go to no instance"):
        env.reset(seed=0)


def test_a_session_goes_on_after_a_failure_that_was_made_good():
    def num_requests(max_retries):
        _, _, steps = play(disturbed(FAILING, closed_loop(), max_retries=max_retries))
        return sum(not outcome.is_retried for known, _ in steps for outcome in known)

    assert num_requests(0) < num_requests(6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retries": -1}, "max_retries is -1, it must be a whole number of at least 0"),
        ({"num_routers": 0}, "num_routers is 0, it must be a whole number of at least 1"),
        ({"router_affinity": "tenant"}, "router_affinity is 'tenant', use one of request, session"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        disturbed(None, **options)
