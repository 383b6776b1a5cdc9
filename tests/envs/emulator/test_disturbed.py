"""Each knob of a world by itself, on timelines computed by hand: a step of n tokens takes 10 + n ticks."""

from math import isnan

import numpy as np
import pytest

from envs.cluster import Cluster, DisturbableCluster
from envs.emulator.disturbed import DisturbedCluster
from envs.emulator.replay import replay
from envs.emulator.rules import round_robin
from envs.world import Schedule, World

from .toy import TICK_S, play, request, toy_cluster, toy_instance


def disturbed(*events, num_instances=1, options=None, interval_ticks=100, **knobs):
    """Events are (tick, instance, what[, factor or ticks]); knobs in ticks where they are seconds."""
    rows = [{"at_s": row[0] * TICK_S, "instance": row[1], "what": row[2]} for row in events]
    for row, event in zip(rows, events, strict=True):
        if event[2] == "lag_scrapes":
            row["lag_s"] = event[3] * TICK_S
        elif event[3:]:
            row["factor"] = event[3]
    knobs = {name: value * TICK_S if name.endswith("_s") else value for name, value in knobs.items()}
    configs = [toy_instance(**options or {}) for _ in range(num_instances)]
    world = World(schedule=Schedule(rows), **{"cold_start_s": 0.0, **knobs})
    return DisturbedCluster(configs, world, 4, interval_ticks * TICK_S, step_log_rows=1000)


def ticks(events):
    """request id -> (first token, last token) in ticks, or why it failed."""
    return {
        done.request_id: done.failure or (done.first_token_at_s / TICK_S, done.finished_at_s / TICK_S)
        for done in events.completions
    }


def collect(cluster, *submissions):
    """(request, instance) pairs, submitted at their arrival."""
    events = cluster.advance_to(0.0)
    for item, index in submissions:
        for seen, new in zip(events, cluster.advance_to(item.arrived_at_s), strict=True):
            seen.extend(new)
        cluster.submit(item, index)
    for seen, new in zip(events, cluster.drain(), strict=True):
        seen.extend(new)
    return events


def test_protocols():
    assert isinstance(disturbed(), DisturbableCluster)
    assert not isinstance(toy_cluster(), DisturbableCluster)
    _: Cluster = disturbed()


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_quiet_world_changes_nothing(async_scheduling):
    requests = [request(number, 9 * number, 5 + number % 7, 4, (5, 6)[: number % 3]) for number in range(40)]
    options = {"num_blocks": 12, "async_scheduling": async_scheduling}
    assert play(disturbed(options=options), requests) == play(toy_cluster(**options), requests)


def test_slowdown_doubles_the_steps_chosen_after_it():
    # Prefill of 4: 14 ticks, decodes of 11. Slow at 20, within the step from 14 to 25: the next take 22.
    cluster = disturbed((20, 0, "slow", 2), (60, 0, "slow", 1))
    assert ticks(collect(cluster, (request(0, 0, 4, 5), 0))) == {0: (14, 25 + 22 + 22 + 11)}


def test_an_instance_slowed_at_the_instant_of_a_step_takes_that_step_slowly():
    cluster = disturbed((14, 0, "slow", 2))
    assert ticks(collect(cluster, (request(0, 0, 4, 3), 0))) == {0: (14, 14 + 22 + 22)}


def test_a_killed_instance_loses_its_requests_aloud_and_serves_again_after_its_cold_start():
    cluster = disturbed((20, 0, "fail"), (30, 0, "restart"), cold_start_s=10, options={"max_num_seqs": 1})
    events = collect(
        cluster,
        (request(0, 0, 4, 5, (5,)), 0),  # first token at 14
        (request(1, 1, 4, 5), 0),  # waits
        (request(2, 25, 4, 1), 0),  # it is down
        (request(3, 35, 4, 1), 0),  # it is starting
        (request(4, 40, 8, 1, (5, 6)), 0),  # a prefill of 8, nothing cached: 18 ticks
    )
    assert ticks(events) == {
        0: "instance failed",
        1: "instance failed",
        2: "connection refused",
        3: "connection refused",
        4: (58, 58),
    }
    first = {done.request_id: done.first_token_at_s / TICK_S for done in events.completions}
    assert first[0] == 14
    assert all(isnan(first[number]) for number in (1, 2, 3))
    assert [token.request_id for token in events.first_tokens] == [0, 4]
    assert all(done.num_output_tokens == 0 for done in events.completions[:4])


def test_failures_are_learned_when_they_happen():
    cluster = disturbed((20, 0, "fail"), network_delay_s=3)
    cluster.submit(request(0, 0, 4, 5), 0)
    assert cluster.num_in_flight == 1
    events = cluster.advance_to(np.inf, stop_at_completion=True)
    assert ticks(events) == {0: "instance failed"}
    assert cluster.now_s == 23 * TICK_S  # one way later
    cluster.submit(request(1, 23, 4, 5), 0)
    assert cluster.num_in_flight == 1
    assert ticks(cluster.advance_to(np.inf, stop_at_completion=True)) == {1: "connection refused"}
    assert cluster.now_s == 29 * TICK_S  # there and back
    assert cluster.num_in_flight == 0


def test_without_delay_a_refusal_takes_no_time():
    cluster = disturbed((5, 0, "fail"))
    cluster.advance_to(10 * TICK_S)
    cluster.submit(request(0, 10, 4, 5), 0)
    assert ticks(cluster.advance_to(np.inf, stop_at_completion=True)) == {0: "connection refused"}
    assert cluster.now_s == 10 * TICK_S


def test_delay_adds_both_ways_to_the_ttft():
    near = ticks(collect(disturbed(), (request(0, 5, 4, 3), 0)))
    events = collect(disturbed(network_delay_s=7), (request(0, 5, 4, 3), 0))
    assert near == {0: (5 + 14, 5 + 36)}
    assert ticks(events) == {0: (5 + 14 + 14, 5 + 36 + 14)}
    assert events.first_tokens[0].at_s == events.completions[0].first_token_at_s
    assert events.completions[0].ttft_s == (14 + 2 * 7) * TICK_S


def test_delays_are_each_instances_own_and_time_stops_at_what_is_learned():
    world = World(network_delay_s=[20 * TICK_S, 1 * TICK_S])
    cluster = DisturbedCluster([toy_instance(), toy_instance()], world, 4)
    cluster.submit(request(0, 0, 4, 1), 0)  # 20 + 14 + 20
    cluster.submit(request(1, 0, 8, 1), 1)  # 1 + 18 + 1
    for request_id, tick in ((1, 20), (0, 54)):
        (done,) = cluster.advance_to(np.inf, stop_at_completion=True).completions
        assert done.request_id == request_id
        assert cluster.now_s == done.finished_at_s == tick * TICK_S


def test_a_request_on_its_way_finds_the_instance_as_it_is_when_it_gets_there():
    cluster = disturbed((3, 0, "fail"), (8, 0, "restart"), network_delay_s=5)
    events = collect(cluster, (request(0, 0, 4, 1), 0), (request(1, 4, 4, 1), 0))
    assert ticks(events) == {0: "connection refused", 1: (4 + 5 + 14 + 5, 28)}


def test_an_answer_on_its_way_outlives_its_instance():
    cluster = disturbed((15, 0, "fail"), network_delay_s=5)
    cluster.submit(request(0, -5, 4, 1), 0)  # is there at 5, done at 19
    assert ticks(cluster.drain()) == {0: "instance failed"}
    cluster = disturbed((20, 0, "fail"), network_delay_s=5)
    cluster.submit(request(0, 0, 4, 1), 0)
    assert ticks(cluster.drain()) == {0: (24, 24)}


def test_jitter_is_bounded_and_seeded():
    def run(seed):
        cluster = disturbed(network_delay_s=3, network_jitter_s=8)
        cluster.reset(np.random.default_rng(seed))
        return [
            done.ttft_s / TICK_S
            for done in collect(
                cluster, *((request(number, 60 * number, 4, 1), 0) for number in range(50))
            ).completions
        ]

    ttft_ticks = np.array(run(1))
    assert ttft_ticks.min() > 14 + 6
    assert ttft_ticks.max() < 14 + 6 + 16
    assert ttft_ticks.std() == pytest.approx(8 * np.sqrt(2 / 12), rel=0.3)  # of the sum of two uniform draws
    assert run(1) == ttft_ticks.tolist() != run(2)


def test_add_and_remove():
    cluster = disturbed(
        (10, 1, "add"), (20, 0, "remove"), (60, 0, "add"), num_instances=2, absent=[1], cold_start_s=5
    )
    assert cluster.statuses == ("up", "absent")
    events = collect(
        cluster,
        (request(0, 0, 4, 3), 0),  # is finished, by 36
        (request(1, 9, 4, 1), 1),
        (request(2, 14, 4, 1), 1),
        (request(3, 15, 4, 1), 1),  # up from 15 on
        (request(4, 30, 4, 1), 0),  # drains
    )
    refused = "connection refused"
    assert ticks(events) == {0: (14, 36), 1: refused, 2: refused, 3: (29, 29), 4: refused}
    cluster.advance_to(62 * TICK_S)
    assert cluster.statuses == ("starting", "up")
    cluster.advance_to(65 * TICK_S)
    assert cluster.statuses == ("up", "up")


def test_an_instance_that_drains_can_be_kept():
    cluster = disturbed((5, 0, "remove"), (10, 0, "add"), cold_start_s=1000)
    cluster.submit(request(0, 0, 8, 4, (5, 6)), 0)
    cluster.advance_to(5 * TICK_S)
    assert cluster.statuses == ("draining",)
    cluster.advance_to(10 * TICK_S)
    assert cluster.statuses == ("up",)
    cluster.submit(request(1, 10, 9, 1, (5, 6)), 0)
    assert [done.failure for done in cluster.drain().completions] == ["", ""]
    assert cluster.num_exact_hit_tokens(request(2, 0, 9, 1, (5, 6))).tolist() == [8]


def test_a_start_that_is_cut_short_never_comes_up():
    cluster = disturbed((1, 0, "fail"), (2, 0, "restart"), (8, 0, "fail"), (9, 0, "restart"), cold_start_s=10)
    for tick, status in ((1, "down"), (2, "starting"), (8, "down"), (12, "starting"), (19, "up")):
        cluster.advance_to(tick * TICK_S)
        assert cluster.statuses == (status,)


def test_flush():
    cluster = disturbed((50, 0, "flush_cache"))
    hits = [
        done.num_cached_tokens
        for done in collect(
            cluster,
            (request(0, 0, 8, 1, (5, 6)), 0),
            (request(1, 40, 9, 1, (5, 6)), 0),
            (request(2, 60, 9, 1, (5, 6)), 0),
            (request(3, 90, 9, 1, (5, 6)), 0),
        ).completions
    ]
    assert hits == [0, 8, 0, 8]


def seen(cluster, router=0):
    """What a router knows of instance 0: running, age in ticks, healthy."""
    snapshot = cluster.snapshot(router)
    return int(snapshot.num_running[0]), snapshot.age_s[0] / TICK_S, bool(snapshot.healthy[0])


def test_scrapes_of_a_dead_instance_fail():
    cluster = disturbed((25, 0, "fail"), (45, 0, "restart"), interval_ticks=10)
    cluster.submit(request(0, 0, 4, 30), 0)
    expected = {  # tick -> seen
        0: (0, 0, True),
        9: (0, 9, True),
        10: (1, 0, True),
        25: (1, 5, True),  # nobody has asked yet
        30: (1, 10, False),  # its values stay those of 20
        45: (1, 25, False),
        50: (0, 0, True),  # a new process
    }
    for tick, known in expected.items():
        cluster.advance_to(tick * TICK_S)
        assert seen(cluster) == known


def test_an_absent_instance_is_not_healthy_from_the_start():
    cluster = disturbed((12, 0, "add"), absent=[0], interval_ticks=10)
    for tick, healthy in ((0, False), (19, False), (20, True)):
        cluster.advance_to(tick * TICK_S)
        assert cluster.snapshot().healthy.tolist() == [healthy]


def test_scrape_lag():
    cluster = disturbed(interval_ticks=10, scrape_lag_s=14)
    cluster.submit(request(0, 0, 4, 60), 0)
    for tick, known in ((10, (0, 10)), (23, (0, 23)), (24, (1, 14)), (33, (1, 23)), (34, (1, 14))):
        cluster.advance_to(tick * TICK_S)
        assert seen(cluster)[:2] == known


def test_an_instance_s_scrapes_come_late_from_an_instant_on():
    cluster = disturbed(
        (15, 1, "lag_scrapes", 14), (45, 1, "lag_scrapes", 0), interval_ticks=10, num_instances=2
    )
    # What was scraped of it at 20, 30 and 40 is known at 34, 44 and, overtaken by that of 50, never.
    for tick, ages in {
        10: (0, 0),
        20: (0, 10),
        33: (3, 23),
        34: (4, 14),
        44: (4, 14),
        50: (0, 0),
        55: (5, 5),
    }.items():
        cluster.advance_to(tick * TICK_S)
        assert np.rint(cluster.snapshot().age_s / TICK_S).tolist() == list(ages)


def test_news_of_a_failure_come_late_too_and_are_not_undone_by_older_ones():
    cluster = disturbed(
        (5, 0, "lag_scrapes", 24), (15, 0, "fail"), (25, 0, "lag_scrapes", 0), interval_ticks=10
    )
    # scraped alive at 10, known at 34; dead at 20, known at 44; dead at 30, known at once
    for tick, is_healthy in {29: True, 30: False, 34: False, 44: False}.items():
        cluster.advance_to(tick * TICK_S)
        assert cluster.snapshot().healthy.tolist() == [is_healthy]


def test_events_may_be_planned_on_the_way():
    rows = [(20, 0, "slow", 2), (60, 0, "slow", 1), (61, 0, "lag_scrapes", 30), (70, 0, "fail")]
    laid_down, planned = disturbed(*rows), disturbed()
    outcomes = []
    for cluster in (laid_down, planned):
        cluster.submit(request(0, 0, 4, 5), 0)
        cluster.submit(request(1, 0, 4, 9), 0)
        events = cluster.advance_to(12 * TICK_S)
        if cluster is planned:
            for event in laid_down.world.events:
                cluster.plan(event)
        outcomes.append(
            repr((events, cluster.advance_to(200 * TICK_S), cluster.snapshot(), cluster.statuses))
        )
    assert outcomes[0] == outcomes[1]
    with pytest.raises(ValueError, match="cannot plan slow at"):
        planned.plan(laid_down.world.events[0])
    with pytest.raises(IndexError, match="instance 5 does not exist"):
        planned.plan(laid_down.world.events[0]._replace(instance=5))
    planned.reset()  # which forgets them
    assert ticks(collect(planned, (request(0, 0, 4, 5), 0))) == {0: (14, 14 + 4 * 11)}


def test_scrapes_are_lost_at_their_rate_whatever_the_steps_of_time():
    def ages(num_steps):
        cluster = disturbed(interval_ticks=1, frac_scrapes_lost=0.4, num_instances=3)
        cluster.reset(np.random.default_rng(3))
        found = []
        for tick in range(1, 600):
            for step in range(1, num_steps + 1):
                cluster.advance_to((tick - 1 + step / num_steps) * TICK_S)
            found.append(cluster.snapshot().age_s / TICK_S)
        return np.array(found)

    whole = ages(1)
    assert np.array_equal(whole, ages(4))
    assert (whole > 0).mean(axis=0) == pytest.approx(0.4, abs=0.07)  # per instance
    assert len(np.unique(whole, axis=1)) == len(whole)
    assert not np.array_equal(whole[:, 0], whole[:, 1])
    assert disturbed(frac_scrapes_lost=1.0).snapshot().healthy.all()  # nothing heard is no bad news


@pytest.mark.parametrize("make", [lambda: toy_cluster(scrape_interval_s=12 * TICK_S), disturbed])
def test_routers_scrape_in_turn(make):
    cluster = make() if make is not disturbed else disturbed(interval_ticks=12)
    cluster.reset(None, 3)  # router 0 at 12, 24; router 1 at 4, 16; router 2 at 8, 20
    cluster.submit(request(0, 0, 4, 4), 0)
    for tick, known in {
        0: [0, 0, 0],
        3: [3, 3, 3],
        4: [4, 0, 4],
        11: [11, 7, 3],
        12: [0, 8, 4],
        100: [4, 0, 8],
    }.items():
        cluster.advance_to(tick * TICK_S)
        assert [round(seen(cluster, router)[1]) for router in range(3)] == known
        running = [int(tick - age > 0 and tick < 47) for age in known]  # it is done at 14 + 33
        assert [seen(cluster, router)[0] for router in range(3)] == running
    with pytest.raises(ValueError, match="num_routers is 0"):
        cluster.reset(None, 0)


def test_random_failures_are_exponential_and_seeded():
    def failed_at_ticks(seed, step_ticks):
        cluster = disturbed(
            num_instances=4, mean_time_to_failure_s=200, downtime_s=30, cold_start_s=20, interval_ticks=10**6
        )
        cluster.reset(np.random.default_rng(seed))
        instants, before = [], cluster.statuses
        for tick in range(step_ticks, 100_001, step_ticks):
            cluster.advance_to(tick * TICK_S)
            for index, (old, new) in enumerate(zip(before, cluster.statuses, strict=True)):
                if old == "up" and new == "down":
                    instants.append((index, tick // 20))
            before = cluster.statuses
        return instants, cluster.statuses

    fine, coarse = failed_at_ticks(1, 5), failed_at_ticks(1, 20)
    assert fine[1] == coarse[1]
    assert len(fine[0]) == pytest.approx(4 * 100_000 / 250, rel=0.1)  # each cycle: 200 up, 50 not
    assert failed_at_ticks(2, 20)[0] != coarse[0]
    per_instance = [{at for name, at in fine[0] if name == index} for index in range(4)]
    assert len(per_instance[0] & per_instance[1]) < len(per_instance[0]) / 4


def test_methods_act_now_and_refuse_what_cannot_be():
    cluster = disturbed()
    for method, message in (
        (cluster.restart, "cannot restart instance 0 at 0.0 s: it is up, it must be down"),
        (cluster.add, "cannot add instance 0 at 0.0 s: it is up, it must be absent or draining"),
    ):
        with pytest.raises(ValueError, match=message):
            method(0)
    cluster.fail(0)
    with pytest.raises(ValueError, match=r"cannot fail instance 0 at 0\.0 s: it is down"):
        cluster.fail(0)
    cluster.restart(0)
    cluster.submit(request(0, 0, 4, 1), 0)
    assert ticks(cluster.drain()) == {0: (14, 14)}
    cluster.remove(0)
    assert cluster.statuses == ("absent",)
    for method in (cluster.fail, cluster.restart, cluster.add, cluster.remove, cluster.flush_cache):
        with pytest.raises(IndexError, match="instance 3 does not exist"):
            method(3)
    with pytest.raises(IndexError, match="instance -1 does not exist"):
        cluster.slow(-1, 2.0)
    with pytest.raises(ValueError, match=r"factor is 0.5, it must lie in \[1, 100\]"):
        cluster.slow(0, 0.5)
    with pytest.raises(ValueError, match="lag_s is nan"):
        cluster.lag_scrapes(0, np.nan)


def test_ids_in_flight_must_differ():
    cluster = disturbed()
    cluster.submit(request(0, 0, 4, 1), 0)
    with pytest.raises(ValueError, match="request 0 is in flight already"):
        cluster.submit(request(0, 0, 4, 1), 0)
    with pytest.raises(ValueError, match="instance 0 takes fewer than its max_model_len"):
        cluster.submit(request(1, 0, 16, 1), 0)


def test_reset_forgets_all_that_happened():
    cluster = disturbed((5, 0, "fail"), (30, 0, "restart"), (31, 0, "slow", 3), network_delay_s=2)
    submissions = [(request(number, 7 * number, 4, 3, (5,)), 0) for number in range(8)]
    first = repr(collect(cluster, *submissions))
    cluster.submit(request(99, 0, 4, 3), 0)
    cluster.reset()
    assert cluster.num_in_flight == 0
    assert repr(collect(cluster, *submissions)) == first


def test_a_replay_refuses_a_world():
    with pytest.raises(ValueError, match="the cluster has a world, which a replay would pass over"):
        replay(disturbed(), [], round_robin)


def test_a_refused_request_is_not_in_flight():
    fleet = DisturbedCluster([toy_instance()], World(network_delay_s=0.1), 4)
    with pytest.raises(ValueError, match="request 0 has block hashes that are not positive"):
        fleet.submit(request(0, 0, 8, 2, [-5, 3]), 0)
    assert fleet.num_in_flight == 0
    assert fleet.drain().completions == []


def test_what_was_learned_before_an_event_that_cannot_be_is_told_after_it():
    world = World(schedule=Schedule([{"at_s": 10.0, "instance": 0, "what": "fail"}]))
    fleet = DisturbedCluster([toy_instance()] * 2, world, 4)
    fleet.submit(request(0, 0, 8, 2), 1)
    fleet.fail(0)
    with pytest.raises(ValueError, match=r"cannot fail instance 0 at 10.0 s: it is down"):
        fleet.advance_to(20.0)
    assert fleet.num_in_flight == 1
    assert [done.request_id for done in fleet.drain().completions] == [0]
    assert fleet.num_in_flight == 0
