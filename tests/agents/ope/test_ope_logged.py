"""What a recording's decisions cost, and which recordings are refused."""

import json
from dataclasses import replace
from math import nan

import numpy as np
import pytest

from agents.ope.logged import read
from envs.live.recording import HEADER

from .recordings import TRAITS, look, outcome, write


def test_decisions_come_with_what_was_seen_chosen_and_paid(tmp_path):
    outcomes = [outcome(number, ttft_s=number + 1.0, e2e_s=number + 2.0) for number in range(4)]
    directory = write(tmp_path / "it", outcomes, 4, (0.25, 0.75), episodes=2)
    logged = read([directory], "ttft_s", None)
    assert logged.episode.tolist() == [0] * 4 + [1] * 4
    assert logged.decision_id.tolist() == [0, 1, 2, 3] * 2
    assert logged.instance.tolist() == [0, 1, 0, 1] * 2
    assert logged.propensities.tolist() == [[0.25, 0.75]] * 8
    assert logged.cost.tolist() == [1, 2, 3, 4] * 2
    for name, seen in look(3).items():
        assert np.array_equal(logged.observation(7)[name], seen)
    assert read([directory], "e2e_s", None).cost.tolist() == [2, 3, 4, 5] * 2


def test_recordings_on_one_cluster_are_read_as_one(tmp_path):
    outcomes = [outcome(number) for number in range(3)]
    paths = [write(tmp_path / name, outcomes, 3, episodes=2) for name in ("a", "b")]
    assert read(paths, "ttft_s", None).episode.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_a_request_that_was_sent_again_cost_what_became_of_it_in_the_end(tmp_path):
    """Requests 7 (decisions 0, 2 and 3) and 8; the former is served at its third attempt."""
    failed = {"failure": "killed", "ttft_s": nan, "e2e_s": nan, "slo_met": False, "is_retried": True}
    outcomes = [
        outcome(0, **failed),
        outcome(1, ttft_s=0.5),
        outcome(2, **failed, num_retries=1),
        outcome(3, ttft_s=9.0, slo_met=False, num_retries=2),
    ]
    directory = write(tmp_path / "it", outcomes, 4, requests=[7, 8, 7, 7])
    assert read([directory], "ttft_s", None).cost.tolist() == [9.0, 0.5, 9.0, 9.0]
    assert read([directory], "slo_miss", None).cost.tolist() == [1, 0, 1, 1]


def test_failures_count_as_is_said_and_never_silently(tmp_path):
    failed = {"failure": "timed out", "slo_met": False, "e2e_s": nan}
    outcomes = [outcome(0), outcome(1, **failed), outcome(2, **failed, ttft_s=nan)]
    directory = write(tmp_path / "it", outcomes, 3)
    with pytest.raises(
        ValueError, match="2 decisions are of requests that failed and have no ttft_s: say by"
    ):
        read([directory], "ttft_s", None)
    assert read([directory], "ttft_s", 60.0).cost.tolist() == [0.25, 60, 60]
    assert read([directory], "e2e_s", 60.0).cost.tolist() == [1.0, 60, 60]
    assert read([directory], "slo_miss", None).cost.tolist() == [0, 1, 1]


def test_what_is_not_known_is_no_cost(tmp_path):
    """Decision 1 has no outcome; 2 was to be sent again when the recording broke off."""
    outcomes = [outcome(0), outcome(2, failure="killed", is_retried=True, slo_met=False), outcome(3)]
    directory = write(tmp_path / "it", outcomes, 4)
    for cost in ("ttft_s", "slo_miss"):
        logged = read([directory], cost, 60.0)
        assert np.isnan(logged.cost).tolist() == [False, True, True, False]
        assert logged.known.tolist() == [0, 3]
        assert logged.take(logged.known).decision_id.tolist() == [0, 3]


@pytest.mark.parametrize(
    "propensities", [(nan, nan), (1.0, 0.0), (0.0, 0.0), (0.5, 0.6), (-0.5, 1.5), (nan, 0.5)]
)
def test_recordings_without_propensities_are_refused(propensities, tmp_path):
    directory = write(tmp_path / "it", [outcome(0), outcome(1)], 2, propensities)
    with pytest.raises(
        ValueError, match=r"it: [12] of 2 decisions have no propensities, first decision [01]"
    ):
        read([directory], "ttft_s", None)


def test_recordings_that_do_not_fit_are_refused(tmp_path):
    directory = write(tmp_path / "it", [outcome(0), outcome(1)], 2)
    other = write(tmp_path / "other", [outcome(0)], 1, traits=[TRAITS[0], replace(TRAITS[1], name="c")])
    with pytest.raises(ValueError, match=r"it and .*other differ|other and .*it differ"):
        read([directory, other], "ttft_s", None)
    with pytest.raises(ValueError, match="holds no decision whose outcome is known"):
        read([write(tmp_path / "none", [], 2)], "ttft_s", None)
    with pytest.raises(ValueError, match="holds no recording"):
        read([tmp_path], "ttft_s", None)
    with pytest.raises(ValueError, match="there is no recording"):
        read([], "ttft_s", None)
    with pytest.raises(ValueError, match="cost is 'tftt_s': choose one of ttft_s, e2e_s, slo_miss"):
        read([directory], "tftt_s", None)
    with pytest.raises(ValueError, match="failed_s is -1"):
        read([directory], "ttft_s", -1)
    header = json.loads((directory / HEADER).read_text())
    (directory / HEADER).write_text(json.dumps(header | {"schema_hash": "0"}))
    with pytest.raises(ValueError, match="its features are those of schema 0, this version's of"):
        read([directory], "ttft_s", None)
