"""What is shown of an episode, against the ledger, the recording and the world that it was played in."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from agents.cells import Cell
from agents.cells import read as read_cell
from agents.viewer.document import STEPS, page
from agents.viewer.episode import partners, recorded, replayed
from agents.viewer.fleet_over_time import STATUSES
from envs.observation import INSTANCE_FEATURES, NUM_IN_FLIGHT, REQUEST_FEATURES

from .conftest import EVENTS
from .test_viewer_packing import unpacked

ABOUT = {"title": "<b>", "command": "", "notes": ["</script>"], "warmup_s": 0.0, "is_replayed": True}
FRACTION = 1e-9


@pytest.fixture(scope="module")
def ledgers(run):
    return {name: read_cell(run, Cell(name, 3))[0] for name in ("by_load", "learns")}


@pytest.fixture(scope="module")
def episodes(run):
    config = OmegaConf.load(run / "config.yaml")
    return {name: replayed(config, run, Cell(name, 3), num_looks=400) for name in ("by_load", "learns")}


@pytest.fixture(scope="module")
def data(episodes):
    text = page(ABOUT, list(episodes.values()))
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize("name", ["by_load", "learns"])
def test_decisions_are_the_ledger_s(name, ledgers, episodes):
    ledger, episode = ledgers[name], episodes[name]
    pd.testing.assert_frame_equal(episode.decisions[ledger.columns], ledger, check_exact=True)
    assert ledger["is_retried"].any()
    assert set(episode.decisions["router"]) == {0, 1}
    rows = np.arange(len(ledger))
    assert episode.mask[rows, ledger["instance"]].all()
    assert not episode.mask.all()
    assert np.isneginf(episode.scores[~episode.mask]).all()
    assert np.allclose(episode.propensities[rows, ledger["instance"]], ledger["propensity"])


def test_a_rule_s_scores_say_what_it_chose(episodes):
    episode = episodes["by_load"]
    chosen = episode.scores[np.arange(len(episode.scores)), episode.decisions["instance"]]
    assert (chosen == episode.scores.max(axis=1)).all()


@pytest.mark.parametrize("name", ["by_load", "learns"])
def test_instances_hold_what_is_in_flight(name, episodes):
    """Running and waiting, by the engines, add up to what the ledger says was there."""
    episode = episodes[name]
    fleet, made = episode.fleet, episode.decisions
    held = fleet.num_running + fleet.num_waiting
    for place, at_s in enumerate(fleet.at_s):
        there = made[(made["at_s"] < at_s) & (made["ended_at_s"] > at_s)]
        expected = np.bincount(there["instance"], minlength=2)
        is_up = fleet.status[place] == STATUSES.index("up")
        assert held[place][is_up].tolist() == expected[is_up].tolist()
        assert (held[place][~is_up] == 0).all()
    assert held.max() > 5
    assert held[0].tolist() == held[-1].tolist() == [0, 0]
    assert (fleet.frac_kv_cache_usage[-1] == 0).all()


def test_the_fleet_is_looked_at_evenly_to_the_end(episodes, ledgers):
    for name, episode in episodes.items():
        ledger = ledgers[name]
        end_s = (ledger["arrived_at_s"] + ledger["e2e_s"]).max()
        at_s = episode.fleet.at_s
        assert len(at_s) == 402  # at 0, 400 times, and once more when all is over
        assert np.allclose(np.diff(at_s[:-1]), end_s / 400)


def test_what_goes_wrong_is_seen(episodes):
    fleet = episodes["by_load"].fleet
    slow, fail, restart, normal = (event["at_s"] for event in EVENTS)

    def between(since_s, until_s):
        return (fleet.at_s > since_s) & (fleet.at_s < until_s)

    for since_s, until_s, status in (
        (0.0, fail, "up"),
        (fail, restart, "down"),
        (restart, restart + 1.0, "starting"),
        (restart + 1.0, np.inf, "up"),
    ):
        assert set(fleet.status[between(since_s, until_s), 1]) == {STATUSES.index(status)}
    assert set(fleet.status[:, 0]) == {STATUSES.index("up")}
    assert set(fleet.slowdown[between(slow, normal), 0]) == {3.0}
    assert set(fleet.slowdown[~between(slow - FRACTION, normal), 0]) == {1.0}


def test_a_recording_shows_the_same_decisions(run, episodes):
    """Which is all that there is of a run over servers."""
    for name, played in episodes.items():
        episode = recorded(run, Cell(name, 3))
        pd.testing.assert_frame_equal(episode.decisions, played.decisions, check_exact=True)
        assert episode.names == played.names
        for field in ("instances", "request", "mask", "scores", "propensities"):
            assert np.array_equal(getattr(episode, field), getattr(played, field))
        assert (episode.fleet.num_running <= episode.instances[..., NUM_IN_FLIGHT].max() + 64).all()
        assert episode.fleet.at_s.tolist() == played.decisions["at_s"].tolist()


def test_the_page_holds_all_of_it(data, episodes, ledgers):
    for held, (name, episode) in zip(data["episodes"], episodes.items(), strict=True):
        made = {column: unpacked(packed) for column, packed in held["decisions"].items()}
        ledger = ledgers[name]
        assert held["policy"] == name
        assert len(made["ttft_s"]) == len(ledger)
        for column in ("ttft_s", "tpot_s", "arrived_at_s"):
            assert np.abs(made[column] - ledger[column].fillna(-1.0)).max() < 0.51e-4
        for column in ("instance", "num_cached_tokens", "num_output_tokens", "slo_met", "is_retried"):
            assert made[column].tolist() == ledger[column].astype(float).tolist()
        assert [held["failures"][int(code)] for code in made["failure"]] == ledger["failure"].tolist()
        for place, feature in enumerate(INSTANCE_FEATURES):
            values = unpacked(held["instances"][place]).T
            assert np.abs(values - episode.instances[..., place]).max() < 0.51 * STEPS[feature.unit]
        assert len(held["request"]) == len(REQUEST_FEATURES)
        assert (episode.scores.astype(np.float32) == unpacked(held["scores"]).T).all()
        fleet = held["fleet"]
        assert (episode.fleet.num_running == unpacked(fleet["num_running"]).T).all()
        assert (episode.fleet.num_waiting == unpacked(fleet["num_waiting"]).T).all()
        assert [feature["name"] for feature in data["instance_features"]] == [
            row.name for row in INSTANCE_FEATURES
        ]


def test_names_cannot_end_an_element(data, episodes):
    assert data["about"]["notes"] == ["</script>"]
    text = page(ABOUT, list(episodes.values())[:1])
    assert "<title>&lt;b&gt;</title>" in text
    assert text.count("</script>") == text.count("<script")


def test_partners_dealt_with_the_same_request(episodes):
    one, other = (episodes[name].decisions for name in ("by_load", "learns"))
    ids = partners(one, other)
    assert (other["request_id"].to_numpy()[ids] == one["request_id"]).all()
    assert not other["is_retried"].to_numpy()[ids].any()


def test_partners_in_a_closed_loop_are_turns_of_a_session():
    def decisions(*rows):
        names = ["decision_id", "request_id", "arrived_at_s", "session_id", "turn", "is_retried"]
        return pd.DataFrame(rows, columns=names).assign(num_prompt_tokens=9)

    one = decisions((0, 0, 0.0, 7, 1, False), (1, 1, 0.5, 8, 1, False), (2, 2, 1.5, 7, 2, False))
    other = decisions(
        (0, 0, 0.0, 7, 1, True), (1, 0, 0.0, 7, 1, False), (2, 1, 0.9, 7, 2, False), (3, 2, 1.0, -1, 1, False)
    )
    assert partners(one, other).tolist() == [1, -1, 2]
    assert partners(other, one).tolist() == [0, 0, 2, -1]
