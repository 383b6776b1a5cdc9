"""``routegym-fidelity`` with an emulated cluster in the live one's place: two worlds that are the same."""

import json

import pytest
from hydra import compose, initialize_config_module

from agents.config import register
from agents.fidelity import compare
from conf.build import ConfigError

register()
TINY = [
    "experiment=fidelity",
    "cluster@live=tiny",
    "cluster@emulated=tiny",
    "workload.num_requests=30",
    "workload.max_model_len=2000",
    "workload.prompt_median=300",
    "workload.rate_per_s=20",
    "seeds=[0,1]",
]


def configured(directory, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose("fidelity", [*TINY, *overrides, f"directory={directory}"])


@pytest.mark.parametrize("experiment", ["fidelity", "fidelity_cpu"])
def test_two_worlds_alike_are_found_to_be(experiment, tmp_path, capsys):
    report = compare(configured(tmp_path, f"experiment={experiment}", "workload.block_size=16"))
    assert len(report["policies"]) == 6
    for figures in report["policies"].values():
        assert figures["prefix_hits"]["relative"] == figures["prefix_hits"]["num_different"] == 0
        for latency in figures["latencies"].values():
            assert latency["ks"] == latency["mean"]["relative"] == latency["p90"]["relative"] == 0
    assert report["ranking_by_mean_ttft"]["disagreements"] == []
    assert report["ranking_by_mean_ttft"]["kendall"] == pytest.approx(1.0)
    assert json.loads((tmp_path / "fidelity.json").read_text()) == report
    page = (tmp_path / "fidelity.html").read_text()
    assert page.count("<table") == 4
    assert "0 of 360 requests found another number" in page
    assert "Kendall's tau 1.00" in capsys.readouterr().out
    assert (tmp_path / "fidelity.png").stat().st_size > 10_000


def test_another_world_is_told_apart(tmp_path):
    report = compare(configured(tmp_path, "emulated.instances.fast.profile=l40s_llama-3.1-8b"))
    assert report["policies"]["round_robin"]["latencies"]["ttft_s"]["mean"]["relative"] > 0.05


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[]", r"seeds: \[\] must be different whole numbers"),
        ("warmup_s=-1", "warmup_s: -1.0 must not be negative"),
        ("warmup_s=1000", "no request that arrived after warmup_s = 1000"),
        ("emulated.instances.slow=null", "live has 2 instances and emulated 1"),
    ],
)
def test_what_cannot_be_compared_is_named(override, message, tmp_path):
    with pytest.raises((ConfigError, ValueError), match=message):
        compare(configured(tmp_path, override))


def test_a_live_world_without_servers_is_named(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(ConfigError, match="there is no file"):
        compare(configured(tmp_path, "cluster@live=live", f"live.endpoints={path}"))
