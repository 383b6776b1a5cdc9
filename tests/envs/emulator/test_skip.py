"""Skipping events changes nothing: the state is the one that step after step leads to, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.emulator import fleet
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.profile import load
from envs.emulator.replay import Stream, replay
from envs.emulator.rules import least_in_flight

from .test_conservation import scenarios
from .toy import PROFILE, TICK_S, request, toy_instance

NUM_EXAMPLES = 1500
SKIPPING_S_OWN = {"event_skipping", "horizon_step", "looks_from_step"}
"""Columns of the instances that say how far was looked ahead."""
H100 = load("h100_llama-3.1-8b")


def check_same(skipping, stepping):
    """Every array of the two states holds the same."""
    for name, array, wanted in zip(skipping.state._fields, skipping.state, stepping.state, strict=True):
        if name in ("wakes_at_s", "next_alike"):
            continue
        for column in array.dtype.names or [None]:
            if name == "instances" and column in SKIPPING_S_OWN:
                continue
            seen, expected = (array, wanted) if column is None else (array[column], wanted[column])
            np.testing.assert_array_equal(seen, expected, f"{name}.{column}", strict=True)


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    scenarios(max_model_len=200, max_output=180),
    st.sampled_from(
        [PROFILE, H100]
    ),  # times that are exact in binary, so that instants meet, and some that are not
    st.lists(st.sampled_from([1, 7, 40, 300, 2000]), min_size=1, max_size=5),
    st.booleans(),
)
def test_the_state_is_that_of_stepping(scenario, profile, pieces, stops):
    configs, block_size, submissions = scenario
    configs = [replace(config, profile=profile) for config in configs]
    skipping = EmulatedCluster(configs, block_size)
    stepping = EmulatedCluster(configs, block_size, event_skipping=False)
    num_done = 0

    def advance(until_s):
        assert skipping.advance_to(until_s, stops) == stepping.advance_to(until_s, stops)
        assert skipping.now_s == stepping.now_s
        for seen, expected in zip(skipping._scraped[0][1], stepping._scraped[0][1], strict=True):
            np.testing.assert_array_equal(seen, expected)

    for item, index in submissions:
        while skipping.now_s < item.arrived_at_s:
            advance(min(item.arrived_at_s, skipping.now_s + pieces[num_done % len(pieces)] * TICK_S))
            num_done += 1
            if num_done % 3 == 0:  # in between instances are left behind
                check_same(skipping, stepping)
        for cluster in (skipping, stepping):
            cluster.submit(item, index)
    check_same(skipping, stepping)
    assert skipping.drain() == stepping.drain()
    check_same(skipping, stepping)


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("profile", ["h100_llama-3.1-8b", "h200_qwen3-30b-a3b_tp2"])
def test_a_fleet_under_load(profile, async_scheduling):
    """Long answers on four instances of which some run out of blocks."""
    group = {"count": 4, "profile": profile, "max_model_len": 8192, "num_blocks": 1500}
    group["async_scheduling"] = async_scheduling
    rng = np.random.default_rng(3)
    num = 300
    hashes = np.concatenate([np.arange(1, 40) + 100 * family for family in rng.integers(0, 30, num)])
    stream = Stream(
        np.cumsum(rng.exponential(0.25, num)),
        rng.integers(640, 1500, num),
        rng.integers(1, 3000, num),
        hashes,
        39 * np.arange(num + 1),
    )
    skipping = fleet.cluster({"all": group})
    stepping = EmulatedCluster(skipping.configs, event_skipping=False)
    ledgers = [replay(cluster, [stream], least_in_flight) for cluster in (skipping, stepping)]
    for seen, expected in zip(*ledgers, strict=True):
        np.testing.assert_array_equal(seen, expected, strict=True)
    check_same(skipping, stepping)
    assert ledgers[0].num_preemptions.sum() > 50


def test_steps_are_skipped():
    """The test above would also pass if nothing were ever skipped."""
    cluster = EmulatedCluster([toy_instance(max_model_len=200)], 4)
    cluster.submit(request(0, 0, 8, 100), 0)
    cluster.advance_to(1.0)
    instance = cluster.state.instances[0]
    assert instance["num_steps"] > 80
    assert instance["horizon_step"] == 100


def test_an_instance_that_only_decodes_is_left_behind_until_somebody_looks():
    cluster = EmulatedCluster([toy_instance(max_model_len=200)], 4, scrape_interval_s=100.0)
    cluster.submit(request(0, 0, 8, 100), 0)
    num_steps = []
    for ticks in (60, 200, 400):
        cluster.advance_to(ticks * TICK_S)
        num_steps.append(int(cluster._state.instances[0]["num_steps"]))
    assert num_steps[0] == num_steps[2] < 10
    assert cluster.state.instances[0]["num_steps"] == 1 + (400 - 18) // 11 + 1
