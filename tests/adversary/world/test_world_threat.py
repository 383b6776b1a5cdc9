"""What a world's threat model says: its knobs, its schedule, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from adversary.threat import Budget, Knob, UnitPositions, neutral
from adversary.validate import violations
from adversary.world.threat import Traffic, WorldThreat
from conf.build import ConfigError, build
from envs.cluster import InstanceTraits
from envs.world import Schedule, World

from .worlds import threat

FOLDER = Path(__file__).parents[3] / "conf" / "adversary"
TRAITS = [InstanceTraits(name, 1000, 16, 8, 512, 8192, True, 1000.0, 0.01) for name in "abcd"]


def test_knobs_of_the_requests_come_first():
    knobs = threat().knobs(2)
    assert [knob.name for knob in knobs] == [
        *Traffic._fields[:4],
        "frac_overflow",
        "frac_synchronised",
        *("slowdown[0]", "slowdown[1]", "failed[0]", "failed[1]"),
        *("cache_flushed[0]", "cache_flushed[1]", "scrape_lag_s[0]", "scrape_lag_s[1]"),
    ]
    assert knobs[0] == Knob("rate_factor", "1", 0.5, 2.0, 1.0)
    assert knobs[7] == Knob("slowdown[1]", "1", 1.0, 4.0, 1.0, 1)
    assert knobs[9] == Knob("failed[1]", "on", 0.0, 1.0, 0.0, 1, True)


def test_epsilon_brings_all_bounds_towards_neutral():
    low, high = [[knob[place] for knob in threat(epsilon=0.5).knobs(1)] for place in (2, 3)]
    assert low == [0.75, 0.0, 1.0, 0.75, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert high == [1.5, 0.4, 3.0, 1.4, 0.15, 0.4, 2.5, 1.0, 1.0, 1.0]


def test_neutral_values_disturb_nothing():
    each = threat()
    values = each.neutral(3)
    assert values.shape == (5, 6 + 4 * 3)
    assert len(each.schedule(values)) == 0
    assert each.traffic(values[0]) == Traffic()
    assert violations(each.knobs(3), each.budget, values) == []


def test_schedule_by_hand():
    each = WorldThreat(
        10.0, 3, slowdown=4.0, failures=True, cache_flushes=True, scrape_lag_s=2.0, budget=Budget()
    )
    # slowdown[0], slowdown[1], failed[0], failed[1], cache_flushed[0], [1], scrape_lag_s[0], [1]
    values = np.array([[1, 2, 0, 0, 1, 0, 0, 0], [1, 2, 0, 1, 1, 0, 2, 0], [3, 1, 0, 1, 0, 0, 2, 1.0]])
    assert (
        each.schedule(values).events
        == Schedule(
            [
                {"at_s": 0, "instance": 1, "what": "slow", "factor": 2},
                {"at_s": 0, "instance": 0, "what": "flush_cache"},
                {"at_s": 10, "instance": 1, "what": "fail"},
                {"at_s": 10, "instance": 0, "what": "flush_cache"},
                {"at_s": 10, "instance": 0, "what": "lag_scrapes", "lag_s": 2},
                {"at_s": 20, "instance": 0, "what": "slow", "factor": 3},
                {"at_s": 20, "instance": 1, "what": "slow", "factor": 1},
                {"at_s": 20, "instance": 1, "what": "lag_scrapes", "lag_s": 1},
                {"at_s": 30, "instance": 0, "what": "slow", "factor": 1},
                {"at_s": 30, "instance": 1, "what": "restart"},
                {"at_s": 30, "instance": 0, "what": "lag_scrapes", "lag_s": 0},
                {"at_s": 30, "instance": 1, "what": "lag_scrapes", "lag_s": 0},
            ]
        ).events
    )


@pytest.mark.parametrize("seed", range(20))
def test_any_attack_has_a_schedule_that_fits_and_ends_as_it_began(seed):
    each, rng = threat(budget=Budget()), np.random.default_rng(seed)
    values = UnitPositions(each.knobs(4)).values(rng.uniform(-1, 1, (5, 22)))
    switches = [place for place, knob in enumerate(each.knobs(4)) if knob.is_switch]
    values[:, switches] = np.rint(values[:, switches])
    schedule = each.schedule(values)
    schedule.check(4)
    assert len(schedule) > 20
    last = {(event.instance, event.what): event for event in schedule}
    for instance in range(4):
        assert last[instance, "slow"].factor == 1.0
        assert last[instance, "lag_scrapes"].lag_s == 0.0
        if (instance, "fail") in last:
            assert last[instance, "fail"].at_s < last[instance, "restart"].at_s


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_s": 0.0}, "window_s is 0.0 and num_windows 5"),
        ({"num_windows": 0}, "num_windows 0"),
        ({"rate_factor": [2.0, 0.5]}, r"knob rate_factor: its bounds \[2, 0.5\] cross"),
        ({"rate_factor": [0.0, 2.0]}, r"rate_factor is \[0.0, 2.0\]: give two numbers above 0"),
        ({"rate_factor": [2.0]}, "give two numbers above 0"),
        ({"rate_factor": [1.5, 2.0]}, "where it disturbs nothing, is not within"),
        ({"frac_unshared": 1.5}, r"frac_unshared is 1.5, it must lie in \(0, 1\]"),
        ({"frac_overflow": 0.0}, "frac_overflow is 0.0"),
        ({"frac_synchronised": -0.1}, "frac_synchronised is -0.1"),
        ({"working_set_factor": 0.5}, "knob working_set_factor: its bounds .* cross"),
        ({"slowdown": 1.0}, r"knob slowdown\[0\]: its bounds .* nothing to turn"),
        ({"slowdown": 101.0}, "slowdown is 101.0, it must not be above 100"),
        ({"slowdown": float("nan")}, "slowdown is nan"),
        ({"scrape_lag_s": -1.0}, "scrape_lag_s is -1.0"),
        ({"overflow_tokens": None}, "overflow_tokens is null: frac_overflow needs it"),
        ({"overflow_tokens": 0}, "overflow_tokens is 0"),
        ({"max_model_len": None}, "max_model_len is null: a prompt_factor above 1 needs it"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        threat(**changes)


def test_a_threat_without_knobs_is_none():
    with pytest.raises(ValueError, match="the threat model has no knob"):
        WorldThreat(1.0, 1)


@pytest.mark.parametrize(
    ("changes", "world", "message"),
    [
        ({"budget": Budget()}, World(), "max_instances null could kill all 4 instances"),
        ({"budget": Budget(max_instances=4)}, World(), "max_instances 4 could kill all 4 instances"),
        ({}, World(), "an instance would be away for longer than its switch is on"),
        ({}, World(cold_start_s=0.0, absent=[1]), "no instance is absent"),
        ({}, World(cold_start_s=0.0, mean_time_to_failure_s=60.0), "none fails by chance"),
        ({}, World(scrape_lag_s=1.0), "the world's scrape_lag_s is 1.0 and the attack turns it too"),
        (
            {},
            World(schedule=Schedule([{"at_s": 1, "instance": 0, "what": "flush_cache"}])),
            "the world has a schedule of its own",
        ),
        ({"max_model_len": 9000}, World(), "max_model_len is 9000: no instance takes"),
    ],
)
def test_worlds_that_do_not_fit_are_named(changes, world, message):
    threat().check(TRAITS, World(cold_start_s=0.0))
    with pytest.raises(ValueError, match=message):
        threat(**changes).check(TRAITS, world)


@pytest.mark.parametrize("shape", [(4, 22), (5, 21), (5, 5), (22,)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="the attack has"):
        threat().schedule(np.zeros(shape))
    plain = WorldThreat(1.0, 5, frac_unshared=0.5)
    with pytest.raises(ValueError, match="2 values a window, the threat model 1 knobs"):
        plain.schedule(np.zeros((5, 2)))


@pytest.mark.parametrize("name", ["world", "world_strong"])
def test_configs_build_and_spell_every_setting(name):
    node = OmegaConf.load(FOLDER / f"{name}.yaml")
    each = build(node, "threat")
    assert set(node) - {"_target_"} == set(WorldThreat.__dataclass_fields__)
    long = [replace(trait, max_model_len=131072) for trait in TRAITS]
    each.check(long, World(cold_start_s=0.0))
    values = UnitPositions(each.knobs(4)).values(np.zeros(len(each.knobs(4))))
    assert neutral(each.knobs(4))[0] == values[0] == 1.0
    with pytest.raises(ConfigError, match=r"threat\.rate_facter: .* did you mean rate_factor"):
        build(OmegaConf.merge(node, {"rate_facter": [0.5, 2]}), "threat")
