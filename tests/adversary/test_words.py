"""Threat models in words."""

from __future__ import annotations

from adversary.threat import Budget
from adversary.words import described, in_words
from adversary.world.threat import WorldThreat


def test_a_world_that_delays_what_is_told_is_not_said_to_be_told_in_time():
    assert "what the router is told of it is true." in in_words(WorldThreat(5.0, 4, slowdown=2.0))
    said = in_words(WorldThreat(5.0, 4, slowdown=2.0, scrape_lag_s=3.0, epsilon=0.5))
    assert "is told of it is true, but may come up to 1.5 s late." in said


def test_knobs_of_instances_stand_there_once():
    told = described(
        "bad_week", WorldThreat(5.0, 4, Budget(max_instances=1), slowdown=2.0, rate_factor=[0.5, 2.0])
    )
    assert (told["level"], told["title"]) == ("world", "bad week")
    assert [knob["name"] for knob in told["knobs"]] == ["rate_factor", "slowdown[i]"]
    assert told["knobs"][1] == {"name": "slowdown[i]", "unit": "1", "low": 1.0, "high": 2.0, "neutral": 1.0}
    assert told["words"].endswith("Budget: at most 1 instance is disturbed at a time.")
