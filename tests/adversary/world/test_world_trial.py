"""Losses of victim, reference and of a world without attack; nothing passes by the projection."""

import numpy as np
import pytest

from adversary.harm import Naive, Primary, Relative
from adversary.validate import require_valid
from adversary.world.episode import WorldEpisode
from adversary.world.trial import WorldTrial
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.round_robin import RoundRobin

from .worlds import routing_env, threat, wanted

EACH = threat()


def trial(reference=None, victim=None):
    victim = WorldEpisode(routing_env(), victim or LeastInFlight(), EACH)
    return WorldTrial(victim, reference and WorldEpisode(routing_env(), reference, EACH))


def test_all_at_once_or_window_by_window_and_each_for_itself():
    both, alone, other = trial(RoundRobin()), trial(), trial(victim=RoundRobin())
    asked = wanted(np.random.default_rng(0), both.victim.knobs)
    whole = both.play(asked, 1)
    both.begin(1)
    for window, row in enumerate(asked):
        losses = both.play_window(row)
        for one, other_one in zip(losses, whole.until(window + 1), strict=True):
            assert one[:-1].tobytes() == other_one[:-1].tobytes()
    assert repr(losses) == repr(whole)

    mine, its = alone.play(asked, 1), other.play(asked, 1)
    assert mine.victim.tobytes() == whole.victim.tobytes()
    assert its.victim.tobytes() == whole.reference.tobytes()
    assert mine.clean.tobytes() == whole.clean.tobytes()
    assert mine.num_requests.tobytes() == its.num_requests.tobytes()
    assert not mine.reference.any()
    require_valid(both.victim.knobs, EACH.budget, both.values)
    for harm in (Naive(), Primary(), Relative()):
        assert harm(whole.until(0)) == 0.0
        assert np.isfinite(harm(whole))


def test_clean_is_what_comes_of_nothing():
    each = trial()
    losses = each.play(EACH.neutral(4), 3)
    assert losses.victim.tobytes() == losses.clean.tobytes()
    assert each.clean(3).tobytes() == losses.clean.tobytes()
    assert Primary(penalty=0.0)(losses) == 0.0


def test_what_was_done_done_again_is_the_same():
    each = trial()
    losses = each.play(wanted(np.random.default_rng(1), each.victim.knobs), 0)
    values = each.values
    again = each.play(values, 0)
    assert values.tobytes() == each.values.tobytes()
    assert repr(again) == repr(losses)


def test_its_record_can_be_read_back(tmp_path):
    each = trial()
    each.play(wanted(np.random.default_rng(2), each.victim.knobs), 0)
    trace = each.trace(attacker="noise")
    trace.save(tmp_path / "a.parquet")
    held = type(trace).load(tmp_path / "a.parquet")
    assert held.values.tobytes() == each.values.tobytes()
    assert (held.level, held.step_s, held.about) == ("world", 2.0, {"seed": 0, "attacker": "noise"})


def test_what_does_not_fit_is_named():
    victim = WorldEpisode(routing_env(), LeastInFlight(), EACH)
    other = WorldEpisode(routing_env(), LeastInFlight(), threat(slowdown=2.0))
    with pytest.raises(ValueError, match="victim and reference are in different worlds"):
        WorldTrial(victim, other)
    with pytest.raises(ValueError, match="share an environment"):
        WorldTrial(victim, WorldEpisode(victim.env, RoundRobin(), EACH))
    with pytest.raises(ValueError, match=r"values of shape \(4, 22\)"):
        WorldTrial(victim).play(np.zeros((4, 22)), 0)
