"""What an instance loses when it fails, and when its cache is flushed; nothing of it is lost silently."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.emulator.disturbed import CONNECTION_REFUSED, INSTANCE_FAILED, DisturbedCluster
from envs.emulator.failure import take_all
from envs.emulator.state import NUM_FREE_SLOTS
from envs.world import Schedule, World

from .invariants import check_idle, check_memory
from .test_conservation import MAX_MODEL_LEN, run, scenarios
from .test_skip import H100, check_same
from .toy import PROFILE, TICK_S, request, toy_cluster

NUM_EXAMPLES = 400
NEXT = {"up": ("fail", "remove"), "down": ("restart", "remove"), "absent": ("add",)}
STATES = {"fail": "down", "restart": "up", "remove": "absent", "add": "up"}


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_killed_engine_is_a_new_one(policy, async_scheduling):
    options = {"max_num_seqs": 3, "num_blocks": 12, "policy": policy, "async_scheduling": async_scheduling}
    cluster, fresh = toy_cluster(**options), toy_cluster(**options)
    for number in range(8):
        cluster.submit(request(number, 0, 9, 6, (5, 6, 100 + number)), 0)
    cluster.advance_to(70 * TICK_S)
    (instance,) = cluster.state.instances
    assert instance["num_running"] == 3
    assert instance["num_waiting"] == 5
    cluster.slow(0, 3.0)
    slots, records = take_all(cluster.state, 0)
    assert sorted(records["request_id"].tolist()) == list(range(8))
    assert len(set(slots.tolist())) == 8
    assert cluster.state.counts[NUM_FREE_SLOTS] == len(cluster.state.requests)
    check_idle(cluster.state)
    check_memory(cluster.state)
    assert cluster.num_exact_hit_tokens(request(9, 0, 9, 1, (5, 6))).tolist() == [0]
    kept = ("slowdown", "oldest_step", "next_step_ends_at_s")  # the last two mean nothing without a step
    for name in instance.dtype.names:
        if name not in kept:
            assert instance[name] == fresh.state.instances[0][name], name
    assert instance["slowdown"] == 3.0


def test_a_flushed_cache_is_empty_and_disturbs_nobody():
    cluster, other = (
        toy_cluster(num_blocks=12),
        toy_cluster(num_blocks=12),
    )  # room for all: nobody is preempted
    shared = [request(0, 0, 10, 6, (5, 6)), request(1, 0, 10, 6, (5, 6)), request(2, 0, 9, 4)]
    outcomes = []
    for each in (cluster, other):
        for item in shared:
            each.submit(item, 0)
        each.advance_to(45 * TICK_S)
        if each is cluster:
            assert cluster.num_exact_hit_tokens(request(9, 0, 10, 1, (5, 6))).tolist() == [8]
            cluster.flush_cache(0)
            assert cluster.num_exact_hit_tokens(request(9, 0, 10, 1, (5, 6))).tolist() == [0]
            check_memory(cluster.state)
        outcomes.append(each.drain())
    assert outcomes[0] == outcomes[1]
    check_memory(cluster.state)
    check_idle(cluster.state)
    for each in (cluster, other):
        each.submit(request(3, 0, 10, 1, (5, 6)), 0)
    assert cluster.drain().completions[0].num_cached_tokens == 0
    assert other.drain().completions[0].num_cached_tokens == 8


@st.composite
def schedules(draw, num_instances, gap_ticks=(0, 1, 7, 40)):
    """A schedule that fits, with instances that are absent at first."""
    states = [draw(st.sampled_from(["up", "up", "up", "up", "absent"])) for _ in range(num_instances)]
    absent = [index for index, state in enumerate(states) if state == "absent"]
    tick, events = 0, []
    for _ in range(draw(st.integers(0, 10))):
        tick += draw(st.sampled_from(gap_ticks))
        index = draw(st.integers(0, num_instances - 1))
        what = draw(st.sampled_from([*NEXT[states[index]], "slow", "flush_cache", "lag_scrapes"]))
        event = {"at_s": tick * TICK_S, "instance": index, "what": what}
        if what == "slow":
            event["factor"] = draw(st.sampled_from([1, 2, 5.5]))
        elif what == "lag_scrapes":
            event["lag_s"] = draw(st.sampled_from([0, 30, 90])) * TICK_S
        events.append(event)
        states[index] = STATES.get(what, states[index])
    return World(
        schedule=Schedule(events),
        absent=absent,
        cold_start_s=draw(st.sampled_from([0, 5])) * TICK_S,
        network_delay_s=draw(st.sampled_from([0, 0, 3])) * TICK_S,
        network_jitter_s=draw(st.sampled_from([0, 2])) * TICK_S,
        scrape_lag_s=draw(st.sampled_from([0, 4])) * TICK_S,
        frac_scrapes_lost=draw(st.sampled_from([0.0, 0.3])),
    )


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data(), st.integers(2, 5))
def test_every_request_ends_once_whatever_fails(data, num_pieces):
    configs, block_size, submissions = data.draw(scenarios())
    world = data.draw(schedules(len(configs)))
    clusters = [
        DisturbedCluster(configs, world, block_size, 40 * TICK_S, step_log_rows=20_000) for _ in range(2)
    ]
    outcomes = []
    for cluster, pieces in zip(clusters, (1, num_pieces), strict=True):
        cluster.reset(np.random.default_rng(0))
        first_tokens, completions, log = run(cluster, submissions, pieces)
        by_instance = log[np.argsort(log["instance"], kind="stable")]
        outcomes.append(repr((first_tokens, completions, by_instance.tolist())))
        assert cluster.num_in_flight == 0
    assert outcomes[0] == outcomes[1]

    end_s = max(0.5, *(cluster.now_s for cluster in clusters))  # all that is scheduled has been
    for cluster in clusters:
        cluster.advance_to(end_s)
        check_idle(cluster.state)
        check_memory(cluster.state)
        assert cluster.state.counts[NUM_FREE_SLOTS] == len(cluster.state.requests)
        outcomes.append((repr(cluster.snapshot()), cluster.statuses))
    assert outcomes[2] == outcomes[3]

    sent = {item.request_id: (item, index) for item, index in submissions}
    first_at_s = {token.request_id: token.at_s for token in first_tokens}
    assert sorted(done.request_id for done in completions) == sorted(sent)  # each once
    assert len(first_at_s) == len(first_tokens)
    for done in completions:
        item, index = sent[done.request_id]
        assert (done.instance_index, done.arrived_at_s, done.slo) == (index, item.arrived_at_s, item.slo)
        assert done.num_prompt_tokens == item.num_prompt_tokens
        owed = min(item.num_output_tokens, MAX_MODEL_LEN - item.num_prompt_tokens)
        if done.failure:
            assert done.failure in (INSTANCE_FAILED, CONNECTION_REFUSED)
            assert isnan(done.finished_at_s)
            assert done.num_output_tokens == 0
            assert not done.slo_met
        else:
            assert done.num_output_tokens == owed
            assert done.finished_at_s >= done.first_token_at_s
        if done.request_id in first_at_s:
            assert done.first_token_at_s == first_at_s[done.request_id]
        else:
            assert done.failure
            assert isnan(done.first_token_at_s)
    if not world.events and not world.absent:
        assert not any(done.failure for done in completions)


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data(), st.sampled_from([PROFILE, H100]), st.lists(st.sampled_from([1, 40, 300, 2000]), min_size=1))
def test_steps_that_are_skipped_go_through_the_same(data, profile, pieces):
    configs, block_size, submissions = data.draw(scenarios(max_model_len=200, max_output=180))
    configs = [replace(config, profile=profile) for config in configs]
    world = data.draw(schedules(len(configs), (0, 40, 150, 600)))
    outcomes, clusters = [], []
    for event_skipping in (True, False):
        cluster = DisturbedCluster(configs, world, block_size, 400 * TICK_S, event_skipping=event_skipping)
        events, num_pieces = [], 0
        for item, index in submissions:
            while cluster.now_s < item.arrived_at_s:
                piece_s = pieces[num_pieces % len(pieces)] * TICK_S
                events.append(cluster.advance_to(min(item.arrived_at_s, cluster.now_s + piece_s)))
                events.append(cluster.snapshot())
                num_pieces += 1
            cluster.submit(item, index)
        for _ in range(5):
            events.append(cluster.advance_to(cluster.now_s + pieces[0] * TICK_S))
            events.append(cluster.snapshot())
        events.append(cluster.drain())
        cluster.advance_to(max(8.0, cluster.now_s))
        outcomes.append(repr((events, cluster.snapshot(), cluster.now_s, cluster.statuses)))
        clusters.append(cluster)
    assert outcomes[0] == outcomes[1]
    check_memory(clusters[0].state)
    check_same(*clusters)


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("factors", [(4, 1), (1, 4), (100, 1.5)])
def test_a_change_of_speed_while_steps_are_skipped(factors, async_scheduling):
    """An instance that was left behind until late must not sleep through what then comes sooner."""
    outcomes = []
    for event_skipping in (True, False):
        config = replace(
            toy_cluster(max_model_len=400, num_blocks=200).configs[0], async_scheduling=async_scheduling
        )
        events = [
            {"at_s": at_s, "instance": 0, "what": "slow", "factor": factor}
            for at_s, factor in zip((0.5, 1.25), factors, strict=True)
        ]
        world = World(schedule=Schedule(events))
        cluster = DisturbedCluster([config], world, 4, 1000.0, event_skipping=event_skipping)
        for number in range(3):
            cluster.submit(request(number, 0, 8 + number, 300 - number), 0)
        outcomes.append((cluster.advance_to(1.4), cluster.drain(), cluster.now_s))
    assert outcomes[0] == outcomes[1]
