"""The vectorised environment is what Gymnasium makes of as many single ones, to the last bit."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import envs  # noqa: F401 (registers the environment)
from envs.emulator.fleet import cluster
from envs.routing import MaskedActionError, NoInstanceError, RoutingEnv
from envs.vector import RoutingVectorEnv
from envs.workload import generator, sessions
from envs.workload.replay import Replay
from envs.workload.trace import Trace
from reward.e2e import E2e
from reward.goodput import Goodput
from reward.slo_miss import SloMiss
from reward.tpot import Tpot
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

H100 = {"profile": "h100_llama-3.1-8b", "max_model_len": 131072}
L40S = {"profile": "l40s_llama-3.1-8b", "max_model_len": 32768}
MODES = list(AutoresetMode)


class Odd:
    """A user's term, of what happened and how long it took."""

    unit = "1"

    def __call__(self, interval):
        return interval.duration_s * 0.1 + len(interval.e2e_s)


EVERY_TERM = {
    "ttft": Weighted(Ttft(), 0.7),
    "ttft_late": Weighted(Ttft("at_completion"), 0.1),
    "e2e": Weighted(E2e(), 0.3),
    "e2e_late": Weighted(E2e("at_completion")),
    "tpot": Weighted(Tpot(), 3),
    "slo_miss": Weighted(SloMiss(), 0.9),
    "goodput": Weighted(Goodput(), 0.01),
    "odd": Weighted(Odd(), 0.2),
}


def stream(num_requests=60, num_generated=600, rate_per_s=10.0, **options):
    """Each seed gives another stretch of one trace."""
    return generator.workload(
        num_generated=num_generated,
        num_requests=num_requests,
        start="random",
        rate_per_s=rate_per_s,
        num_tenants=3,
        **options,
    )


def long_answers(num_requests=60, num_generated=600):
    """More and longer answers than a small KV cache holds, some of them like others in length and arrival."""
    rng = np.random.default_rng(3)
    trace = Trace(
        np.round(np.cumsum(rng.exponential(0.05, num_generated)), 1),
        rng.integers(1, 30, num_generated) * 20,
        rng.integers(1, 30, num_generated) * 20,
        tenant=rng.choice([3, 70_000, 5], num_generated),
    )
    return Replay(trace, num_requests=num_requests, start="random")


WORLDS = {  # name -> (cluster, workload, options), each made anew
    "mixed": (
        lambda: cluster({"h": {**H100, "count": 2}, "l": {**L40S, "prefix_caching": False}}),
        stream,
        {"max_instances": 5},
    ),
    "overload": (
        lambda: cluster({"l": {**L40S, "count": 2, "num_blocks": 128, "max_model_len": 1600}}, 16, 0.7),
        long_answers,
        {"half_life_s": 2.0},
    ),
    "exact": (
        lambda: cluster({"h": {**H100, "count": 3}}, scrape_interval_s=0.05),
        stream,
        {"prefix_hits": "exact", "half_life_s": 2.0},
    ),
    "small index, seldom scraped, by priority": (
        lambda: cluster(
            {"l": {**L40S, "count": 2, "policy": "priority", "async_scheduling": False}}, 32, 5.0
        ),
        lambda: stream(block_size=32, max_model_len=32768),
        {"prefix_capacity": 40, "prefix_tokens_per_key": 64, "prefix_max_age_s": 3.0},
    ),
}


def options_of(name, terms=EVERY_TERM):
    make_cluster, make_workload, options = WORLDS[name]
    return {
        "cluster": make_cluster(),
        "workload": make_workload(),
        "reward": WeightedSum(terms),
        **options,
    }


def pair(name, mode, num_envs=3, terms=EVERY_TERM, **more):
    singles = SyncVectorEnv(
        [lambda: RoutingEnv(**options_of(name, terms)) for _ in range(num_envs)], autoreset_mode=mode
    )
    return singles, RoutingVectorEnv(num_envs, autoreset_mode=mode, **options_of(name, terms), **more)


def assert_same(expected, found, path="info"):
    """Equal to the last bit, NaN to NaN, of the same types."""
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(value, found[key], f"{path}[{key!r}]")
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), path
        if expected.dtype == object:
            for number, value in enumerate(expected):
                assert_same(value, found[number], f"{path}[{number}]")
        else:
            assert found.tobytes() == expected.tobytes(), f"{path}\n{expected}\n{found}"
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for number, value in enumerate(expected):
            assert_same(value, found[number], f"{path}[{number}]")
    else:
        assert repr(found) == repr(expected), path


def reset_both(singles, many, **arguments):
    masks = arguments.get("options")
    expected = singles.reset(
        **arguments | ({"options": dict(masks)} if masks else {})
    )  # it takes the mask out
    found = many.reset(**arguments)
    assert_same(expected, found)
    return found


def play(singles, many, num_steps, rng, mode):
    """Step both with the same random valid actions and compare all; return how many episodes and outcomes.

    In the middle one world begins anew, so that from then on they do not end together.
    """
    num_ended, outcomes = 0, []
    observation, _ = reset_both(singles, many, seed=7)
    for step in range(num_steps):
        if step == num_steps // 5:
            alone = np.arange(many.num_envs) == 1
            observation, _ = reset_both(singles, many, options={"reset_mask": alone})
        actions = np.array([rng.choice(np.flatnonzero(row)) for row in observation["mask"]])
        propensities = rng.random(len(actions))
        for env, propensity in zip(singles.envs, propensities.tolist(), strict=True):
            env.declare_propensity(propensity)
        many.declare_propensities(propensities)
        expected, found = singles.step(actions), many.step(actions)
        assert_same(expected, found)
        observation, _, ended, _, infos = found
        num_ended += ended.sum()
        for told in (infos, infos.get("final_info", {})):
            outcomes += [
                outcome for completions in told.get("completions", ()) for outcome in completions or ()
            ]
        if mode == AutoresetMode.DISABLED and ended.any():
            seed = 100 if num_ended % 2 else None
            observation, _ = reset_both(singles, many, seed=seed, options={"reset_mask": ended})
    return num_ended, outcomes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WORLDS)
def test_same_as_single_environments(name, mode):
    singles, many = pair(name, mode)
    assert many.metadata == singles.metadata
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(many, space) == getattr(singles, space)
    num_ended, outcomes = play(singles, many, 160, np.random.default_rng(1), mode)
    assert num_ended >= 5
    if name == "overload":
        assert max(outcome.num_preemptions for outcome in outcomes) > 0
    else:
        assert max(outcome.num_cached_tokens for outcome in outcomes) > 0
