import subprocess
import sys

import numpy as np
import pytest

from agents.defences import ranges
from agents.heuristics.smg_least_load import SmgLeastLoad
from agents.recording import recorder_of
from agents.rollout import play
from envs import observation as columns

from .look import look
from .worlds import small_env


def part(**instance_columns):
    observation = look(**instance_columns)
    return observation["instances"][None], observation["mask"][None]


def test_ranges_are_the_extremes_of_the_valid_rows():
    fitted = ranges.fit(
        [part(num_waiting=[1, 2, 9], mask=[1, 1, 0]), part(num_waiting=[4, 3, 2])], ["num_waiting"]
    )
    assert fitted == {"num_waiting": [1.0, 4.0]}


def test_a_margin_widens_them_within_bounds():
    fitted = ranges.fit(
        [part(num_waiting=[1, 2, 5], frac_kv_cache_usage=[0, 0.8, 0.5])],
        ["num_waiting", "frac_kv_cache_usage"],
        margin=0.5,
    )
    assert fitted["num_waiting"] == [0.0, 7.0]
    assert fitted["frac_kv_cache_usage"] == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {}, "there is no finite range"),
        ([part(num_waiting=[0, np.nan, 1])], {}, "there is no finite range"),
        ([part()], {"margin": -1}, "margin is -1"),
        ([part()], {"features": ["recent_ttft"]}, "did you mean recent_ttft_s"),
    ],
)
def test_what_cannot_be_fitted_is_named(parts, options, message):
    with pytest.raises(ValueError, match=message):
        ranges.fit(parts, **options)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: there is no such file"):
        ranges.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"num_waiting": [3, 1]}')
    with pytest.raises(ValueError, match=r"bad\.json: num_waiting is \[3, 1\]"):
        ranges.load(tmp_path / "bad.json")


def test_the_program_fits_what_a_recording_saw(tmp_path):
    env = small_env(num_requests=60)
    with recorder_of(env, tmp_path / "recording", "smg") as recorder:
        play(env, SmgLeastLoad(), 0, recorder)
    command = [sys.executable, "-m", "agents.defences.ranges", str(tmp_path / "recording")]
    subprocess.run([*command, "--output", str(tmp_path / "ranges.json")], check=True, capture_output=True)
    fitted = ranges.load(tmp_path / "ranges.json")
    assert tuple(fitted) == columns.REACHABLE
    assert fitted["num_running"][0] == 0.0 < fitted["num_running"][1] <= 60
    failed = subprocess.run(
        [*command, "--output", str(tmp_path / "x.json"), "--features", "turn"], capture_output=True, text=True
    )
    assert failed.returncode != 0
    assert "no instance has a feature 'turn'" in failed.stderr


def test_gauges_are_what_instances_report():
    scraped = [feature.name for feature in columns.INSTANCE_FEATURES if feature.staleness == "scraped"]
    assert set(columns.REACHABLE) == set(scraped) - {"snapshot_age_s"}
