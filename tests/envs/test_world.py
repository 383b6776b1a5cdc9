"""Worlds and schedules as data: files, and bad input named."""

import json
from math import inf, nan

import pytest

from envs.world import Schedule, World, WorldEvent

EVENTS = (
    WorldEvent(1.5, 0, "slow", 2.5),
    WorldEvent(1.5, 1, "fail"),
    WorldEvent(2.0, 1, "restart"),
    WorldEvent(2.0, 0, "remove"),
    WorldEvent(9.25, 0, "add"),
    WorldEvent(10.0, 1, "flush_cache"),
    WorldEvent(11.0, 1, "lag_scrapes", lag_s=2.5),
)


@pytest.mark.parametrize("events", [EVENTS, ()])
def test_a_schedule_replays_from_its_file(events, tmp_path):
    path = tmp_path / "schedule.json"
    schedule = Schedule(events)
    schedule.save(path)
    assert Schedule.load(path) == schedule
    assert tuple(schedule) == events
    assert len(schedule) == len(events)
    assert World(schedule=str(path)).events == events
    schedule.check(2)


def test_the_file_is_plain(tmp_path):
    path = tmp_path / "schedule.json"
    Schedule(EVENTS[:2]).save(path)
    assert json.loads(path.read_text()) == {
        "events": [
            {"at_s": 1.5, "instance": 0, "what": "slow", "factor": 2.5},
            {"at_s": 1.5, "instance": 1, "what": "fail"},
        ]
    }


def row(**changes):
    return {"at_s": 1.0, "instance": 0, "what": "fail", **changes}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            [row(what="explode")],
            "event 0: what is 'explode', use one of slow, fail, restart, add, remove, flush",
        ),
        ([row(what=["fail"])], r"event 0: what is \['fail'\]"),
        (["fail"], "event 0 is 'fail'; write a mapping"),
        ([row(factor=2.0)], "event 0: fail takes at_s, instance, what; missing or too much: factor"),
        ([row(what="slow")], "event 0: slow takes at_s, factor, instance, what; missing or too much: factor"),
        ([row(what="slow", factor=0.5)], r"event 0: factor is 0.5, it must lie in \[1, 100\]"),
        ([row(what="slow", factor=101)], "factor is 101"),
        ([row(what="slow", factor=nan)], "factor is nan"),
        ([row(what="slow", factor=True)], "factor is True"),
        ([row(at_s=-1.0)], "event 0: at_s is -1.0"),
        ([row(at_s=nan)], "at_s is nan"),
        ([row(at_s=inf)], "at_s is inf"),
        ([row(at_s="soon")], "at_s is 'soon'"),
        ([row(instance=-1)], "event 0: instance is -1"),
        ([row(instance=0.0)], "instance is 0.0"),
        ([row(at_s=2.0), row(what="restart")], "event 1 is at 1.0 s, before event 0 at 2.0 s: sort them"),
    ],
)
def test_bad_events_are_named(events, message):
    with pytest.raises(ValueError, match=message):
        Schedule(events)


@pytest.mark.parametrize(
    ("events", "absent", "message"),
    [
        ([row(instance=2)], (), "event 0: there is no instance 2, the cluster has 2"),
        ([row(what="restart")], (), "cannot restart instance 0 at 1.0 s: it is up then, it must be down"),
        ([row(), row()], (), "event 1: cannot fail instance 0 at 1.0 s: it is down then, it must be up"),
        ([row(what="add")], (), "cannot add instance 0 at 1.0 s: it is up then, it must be absent"),
        ([row()], (0,), "cannot fail instance 0 at 1.0 s: it is absent then"),
        ([row(what="remove"), row(what="remove")], (), "it is absent then, it must be up or down"),
        ([row(), row(what="add")], (), "cannot add instance 0 at 1.0 s: it is down then"),
    ],
)
def test_a_schedule_must_fit_the_cluster(events, absent, message):
    with pytest.raises(ValueError, match=message):
        World(schedule=Schedule(events), absent=absent).check(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "cannot be read as JSON"),
        ("[]", 'write {"events": '),
        ('{"events": [], "more": 1}', 'write {"events": '),
        ('{"events": null}', 'write {"events": '),
        (f'{{"events": [{{"at_s": {10**400}, "instance": 0, "what": "fail"}}]}}', "event 0: at_s is 1"),
        ('{"events": [{"what": "fail"}]}', "event 0: fail takes at_s, instance, what"),
    ],
)
def test_bad_files_are_named(content, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"bad\.json: .*{message}"):
        World(schedule=str(path))
    with pytest.raises(ValueError, match=r"missing\.json: cannot be read"):
        Schedule.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network_delay_s": -0.1}, "network_delay_s is -0.1, it must be a number of seconds from 0"),
        ({"network_delay_s": [0.1, nan]}, "network_delay_s is nan"),
        ({"network_delay_s": "0.1"}, "network_delay_s is '0.1'"),
        ({"network_delay_s": 1e300}, "it must be a number of seconds from 0 to 60"),
        ({"schedule": [{"at_s": 1, "instance": 0, "what": "fail"}]}, "schedule is a list: write a Schedule"),
        ({"absent": ["a"]}, "absent is .*it must be a list of instances"),
        ({"absent": 1}, "absent is 1, it must be a list of instances"),
        ({"network_delay_s": [0.1]}, "network_delay_s has 1 values, the cluster 2 instances"),
        ({"network_jitter_s": inf}, "network_jitter_s is inf"),
        ({"scrape_lag_s": -1}, "scrape_lag_s is -1"),
        ({"downtime_s": nan}, "downtime_s is nan"),
        ({"cold_start_s": -1.0}, "cold_start_s is -1.0"),
        ({"frac_scrapes_lost": 1.5}, r"frac_scrapes_lost is 1.5, it must lie in \[0, 1\]"),
        ({"frac_scrapes_lost": nan}, "frac_scrapes_lost is nan"),
        ({"mean_time_to_failure_s": 1e-9}, "it must be a number of seconds from 0.01, or null"),
        (
            {"mean_time_to_failure_s": 9.0, "schedule": Schedule(EVENTS[:2])},
            "the schedule says fail at 1.5 s",
        ),
        ({"absent": [2]}, "absent names instance 2, the cluster has 2"),
    ],
)
def test_bad_knobs_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        World(**options).check(2)
