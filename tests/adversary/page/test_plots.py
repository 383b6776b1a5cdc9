"""The report's pictures: one file of everything, the same bytes each time."""

from __future__ import annotations

import pytest
from PIL import Image

from adversary.report_plots import draw

from .sample_report import THREATS, sample_report


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(sample_report(), tmp_path_factory.mktemp("png"))


def test_everything_is_drawn(drawn):
    metrics = ["ttft_mean_s", "ttft_p95_s", "ttft_p99_s", "goodput_per_s"]
    names = ["overview", "defences", "training", "trace_0", "trace_1", "attackers_noise_100"]
    names += ["attackers_hostile_stream_100", "attackers_hostile_stream_400"]
    names += ["transfer_feature", "transfer_world", *(f"attacks_{metric}" for metric in metrics)]
    names += [f"sweep_{threat}" for threat in THREATS]
    assert sorted(path.stem for path in drawn) == sorted(names)
    for path in drawn:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # something is on it


def test_the_same_report_gives_the_same_bytes(drawn, tmp_path):
    report = sample_report()
    less = {key: report[key] for key in ("cells", "scenario")}
    for path in draw(less, tmp_path):
        assert path.read_bytes() == (drawn[0].parent / path.name).read_bytes()


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert draw({}, tmp_path) == []


def test_names_of_files_hold_no_slash(tmp_path):
    report = sample_report()
    (path,) = draw({"epsilon": {"feature/noise 5 %": report["epsilon"]["noise"]}}, tmp_path)
    assert path.name == "sweep_feature_noise_5_.png"
