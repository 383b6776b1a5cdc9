"""Speedups against a named rule, by hand."""

import pandas as pd
import pytest

from agents.benchmark.speedup import fleet_of, speedups
from agents.benchmark.standings import FIGURES

SEEDS = 3


def table(**means):
    """Figures of as many seeds as a policy has values, which are alike where one is given."""
    rows = []
    for policy, values in means.items():
        values = values if isinstance(values, list) else [values] * SEEDS
        rows += [
            {"policy": policy, "seed": seed} | dict.fromkeys(FIGURES, each)
            for seed, each in enumerate(values)
        ]
    return pd.DataFrame(rows)


def test_speedups_are_summed_up_by_fleet():
    scenarios = {
        "equal@80": table(theirs=2.0, mine=1.0, failed=[1.0, 1.0, float("nan")]),
        "equal@95": table(theirs=9.0, mine=3.0),
        "mixed@80": table(theirs=1.0, mine=2.0),
        "elsewhere@80": table(mine=2.0),
    }
    fleets = {"equal@80": "homogeneous", "equal@95": "homogeneous", "mixed@80": "heterogeneous"}
    found = speedups(scenarios, fleets | {"elsewhere@80": "homogeneous"}, "theirs")
    assert list(found) == ["homogeneous", "heterogeneous"]
    assert found["homogeneous"] == {
        "mine": {each: {"mean": pytest.approx(2.5), "best": 3.0, "worst": 2.0} for each in FIGURES}
    }
    assert found["heterogeneous"]["mine"][FIGURES[0]] == {"mean": 0.5, "best": 0.5, "worst": 0.5}


def test_speedups_are_of_the_streams_that_both_were_played_on():
    found = speedups({"a": table(theirs=[2.0, 4.0, 30.0], bound=[1.0, 2.0])}, {"a": "homogeneous"}, "theirs")
    assert found["homogeneous"]["bound"][FIGURES[0]]["mean"] == 2.0
    of_bound = speedups({"a": table(mine=[2.0, 4.0, 30.0], bound=[1.0, 2.0])}, {"a": "homogeneous"}, "bound")
    assert of_bound["homogeneous"]["mine"][FIGURES[0]]["mean"] == 0.5


def test_a_fleet_of_one_kind_is_homogeneous():
    assert fleet_of({"h100": {"count": 8}}) == "homogeneous"
    assert fleet_of({"h100": {"count": 1}, "l40s": {"count": 1}}) == "heterogeneous"
