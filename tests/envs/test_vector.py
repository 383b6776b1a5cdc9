"""The vectorised environment is what Gymnasium makes of as many single ones, to the last bit."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import envs  # noqa: F401 (registers the environment)
from envs.emulator.compilation import NOTICE
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.vector import RoutingVectorEnv
from envs.workload import generator
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
ROOT = Path(__file__).parents[2]
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
        lambda: cluster(
            {"l": {**L40S, "count": 2, "num_blocks": 128, "max_model_len": 1600}},
            scrape_interval_s=0.7,
            gauges_at_steps=True,
        ),
        long_answers,
        {"half_life_s": 2.0},
    ),
    "exact": (
        lambda: cluster({"h": {**H100, "count": 3}}, scrape_interval_s=0.05),
        stream,
        {"prefix_hits": "exact", "half_life_s": 2.0, "max_retries": 1},  # nothing fails
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
    """Step both with the same random valid actions and compare all; return how many ended, and outcomes.

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


def test_growing_memory_changes_nothing():
    """More requests in flight than there are slots at first, and more hashes than there is room for."""
    num = 1300
    rng = np.random.default_rng(0)
    trace = Trace(
        np.cumsum(rng.exponential(0.002, num + 50)),
        np.full(num + 50, 2048),
        np.full(num + 50, 30),
        hash_ids=rng.integers(0, 900, 4 * (num + 50)),
        hash_offsets=4 * np.arange(num + 51),
        hash_block_tokens=512,
    )
    options = lambda: {  # noqa: E731
        "cluster": cluster({"l": {**L40S, "count": 2}}),
        "workload": Replay(trace, num_requests=num, start="random"),
        "reward": WeightedSum(EVERY_TERM),
    }
    singles = SyncVectorEnv([lambda: RoutingEnv(**options()) for _ in range(2)])
    many = RoutingVectorEnv(2, **options())
    reset_both(singles, many, seed=0)
    for step in range(num + 50):
        if step == 200:  # the second world lags behind, so that they do not run out of room together
            reset_both(singles, many, options={"reset_mask": np.array([False, True])})
        actions = rng.integers(0, 2, 2)
        assert_same(singles.step(actions), many.step(actions))
    assert many._worlds._worlds.state.requests.shape == (2, 2048)
    assert many._worlds._worlds.state.hashes.shape[1] > 1 << 16
    many.close()


def test_threads_change_nothing():
    singles, many = pair("mixed", AutoresetMode.SAME_STEP, num_envs=5, threads=3)
    play(singles, many, 130, np.random.default_rng(2), AutoresetMode.SAME_STEP)
    many.close()


def test_threads_and_a_fork(tmp_path):
    """In a process of its own, since Python warns of forks beside threads."""
    program = f"""
import os, warnings
from tests.envs.test_vector import AutoresetMode, pair
many = pair("mixed", AutoresetMode.SAME_STEP, threads=2)[1]
many.reset(seed=0)
many.step([0, 1, 0])
warnings.simplefilter("ignore", DeprecationWarning)
if os.fork() == 0:
    many.step([0, 1, 0])
    open({str(tmp_path / "stepped")!r}, "w").close()
    os._exit(0)
os.wait()
many.step([0, 1, 0])
many.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr.replace(NOTICE + "\n", "")) == (0, "", "")
    assert (tmp_path / "stepped").exists()


@cache
def _small_pair(mode):
    def options():
        return {
            "cluster": cluster({"h": H100, "l": {**L40S, "prefix_caching": False}}, scrape_interval_s=0.3),
            "workload": stream(num_requests=6, rate_per_s=25.0),
            "reward": WeightedSum(EVERY_TERM),
        }

    singles = SyncVectorEnv([lambda: RoutingEnv(**options()) for _ in range(3)], autoreset_mode=mode)
    return singles, RoutingVectorEnv(3, autoreset_mode=mode, **options())


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(*[st.integers(0, 9)] * 3, st.sampled_from([None, None, None, 1, 3, 6])), max_size=24),
)
def test_whatever_is_done(mode, seed, history):
    """Any choices, and any worlds begun anew at any time, by a mask in three bits."""
    singles, many = _small_pair(mode)
    observation, _ = reset_both(singles, many, seed=seed)
    ended = np.zeros(3, np.bool_)
    for *numbers, begun_anew in history:
        mask = np.array([bool((begun_anew or 0) >> number & 1) for number in range(3)])
        if mode == AutoresetMode.DISABLED:
            mask |= ended
        if mask.any():
            observation, _ = reset_both(singles, many, options={"reset_mask": mask})
        valid = [np.flatnonzero(row) for row in observation["mask"]]
        actions = np.array([row[number % len(row)] for row, number in zip(valid, numbers, strict=True)])
        expected, found = singles.step(actions), many.step(actions)
        assert_same(expected, found)
        assert_same(np.stack(singles.call("action_masks")), many.action_masks())
        observation, _, ended, _, _ = found


def test_by_gymnasium_and_by_default():
    many = gymnasium.make_vec("RouteGym/Routing-v0", num_envs=2, autoreset_mode="SameStep")
    assert isinstance(many.unwrapped, RoutingVectorEnv)
    assert many.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    single = gymnasium.make("RouteGym/Routing-v0")
    for number in range(2):
        expected, _ = single.reset(seed=4 + number)
        found, _ = many.reset(seed=4)
        for name, array in expected.items():
            assert found[name][number].tobytes() == array.tobytes()
    assert many.observation_space.contains(found)
    assert many.observation_space.contains(many.step(many.action_space.sample())[0])
    many.close()


def test_cluster_and_workload_are_not_used_up():
    options = options_of("mixed")
    many = RoutingVectorEnv(2, **options)
    single = RoutingEnv(**options)
    single.reset(seed=0)
    single.step(0)
    first, now_s = options["workload"].first, options["cluster"].now_s
    many.reset(seed=3)
    many.step([0, 0])
    assert (options["workload"].first, options["cluster"].now_s) == (first, now_s)


def test_generators_are_those_of_single_environments():
    singles, many = pair("mixed", AutoresetMode.NEXT_STEP)
    assert many.np_random == (None, None, None)
    reset_both(singles, many, seed=[3, 9, 4])
    reset_both(singles, many)
    for expected, found in zip(singles.np_random, many.np_random, strict=True):
        assert found.bit_generator.state == expected.bit_generator.state
    many.reset(seed=[1, None, None])


def test_many_tenants():
    """More than either has room for at first."""
    num = 12
    trace = Trace(np.arange(num) * 1.0, np.full(num, 100), np.full(num, 5), tenant=np.arange(num))
    options = {"cluster": cluster({"h100": H100}), "workload": Replay(trace)}
    single, many = RoutingEnv(**options), RoutingVectorEnv(1, **options)
    expected, _ = single.reset(seed=0)
    found, _ = many.reset(seed=0)
    for _ in range(num - 1):
        assert found["request"][0].tobytes() == expected["request"].tobytes()
        expected, found = single.step(0)[0], many.step([0])[0]


def test_no_episode_finds_what_the_last_one_cached():
    """Where every block that is cached is one of several children, or a twin."""
    trace = Trace(
        arrived_at_s=np.array([0.0, 1.0]),
        num_prompt_tokens=np.array([20, 16]),
        num_output_tokens=np.array([2, 2]),
        hash_ids=np.array([7, 8, 7]),
        hash_offsets=np.array([0, 2, 3]),
        hash_block_tokens=16,
    )
    many = RoutingVectorEnv(1, "SameStep", cluster=cluster({"h100": H100}), workload=Replay(trace))
    many.reset(seed=0)
    num_cached = []
    for _ in range(3):
        outcomes = [*many.step([0])[4]["completions"][0]]
        infos = many.step([0])[4]
        outcomes += infos["final_info"]["completions"][0]
        num_cached.append([outcome.num_cached_tokens for outcome in outcomes])
    assert num_cached[0] == num_cached[1] == num_cached[2]
    assert num_cached[0][0] == 0
