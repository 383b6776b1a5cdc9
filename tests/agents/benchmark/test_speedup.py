"""Speedups against a named rule, by hand."""

import pytest

from agents.benchmark.speedup import fleet_of, speedups
from agents.benchmark.standings import FIGURES


def standing(**means):
    policies = {name: {"mean": [mean, None, None]} for name, mean in means.items()}
    return {figure: {"policies": policies} for figure in FIGURES}


def test_speedups_are_summed_up_by_fleet():
    scenarios = {
        "equal@80": standing(theirs=2.0, mine=1.0, failed=None),
        "equal@95": standing(theirs=9.0, mine=3.0),
        "mixed@80": standing(theirs=1.0, mine=2.0),
        "elsewhere@80": standing(mine=2.0),
    }
    fleets = {"equal@80": "homogeneous", "equal@95": "homogeneous", "mixed@80": "heterogeneous"}
    found = speedups(scenarios, fleets | {"elsewhere@80": "homogeneous"}, "theirs")
    assert list(found) == ["homogeneous", "heterogeneous"]
    assert found["homogeneous"] == {
        "mine": {each: {"mean": pytest.approx(2.5), "best": 3.0, "worst": 2.0} for each in FIGURES}
    }
    assert found["heterogeneous"]["mine"][FIGURES[0]] == {"mean": 0.5, "best": 0.5, "worst": 0.5}


def test_a_fleet_of_one_kind_is_homogeneous():
    assert fleet_of({"h100": {"count": 8}}) == "homogeneous"
    assert fleet_of({"h100": {"count": 1}, "l40s": {"count": 1}}) == "heterogeneous"
