"""The program as a user runs it, on a slice that takes seconds."""

import json

import numpy as np
import pandas as pd
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from agents.benchmark import tuned
from agents.benchmark.__main__ import _run_of, benchmark
from agents.benchmark.scenario import Scenario
from agents.cells import build_policy
from agents.config import register_policy_group
from agents.leaderboard.runs import find
from agents.metrics import figures
from agents.train import train
from conf.build import ConfigError
from tests.agents.test_programs import configured, files

TINY = [
    "num_workers=1",
    "seeds=[0,1]",
    "+settings.warmup_s=1",
    "+settings.workload.num_generated=50",
    "+settings.workload.num_requests=40",
]
SLICE = "scenarios=[equal@60,throttled]"
BOUNDED = ["+agent@policies.clairvoyant=llmd_token_load"]
TRAINED = ["workload.num_generated=50", "workload.num_requests=40"]
FINE = {"vllm_dp": {"waiting_weight": 3.0}}
POLICIES = "policy=[least_in_flight,round_robin,linucb]"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """The group policy is the program's alone, and no trace lies anywhere."""
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path / "none"))
    register_policy_group()
    yield
    del ConfigStore.instance().repo["policy"]


def run(directory, *overrides, tiny=TINY):
    return benchmark(configured("benchmark", directory, *tiny, *overrides))


def test_a_slice_agrees_with_its_ledgers_and_goes_on_from_what_is_there(tmp_path, capsys):
    summary = run(tmp_path, SLICE, POLICIES)
    assert list(summary["scenarios"]) == ["equal@60", "throttled@80"]
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == 2 * 3 * 2
    for row in results.itertuples():
        cell = tmp_path / f"{row.scenario}@{row.load}" / "cells" / f"{row.policy}-{row.seed}.parquet"
        expected = figures(pd.read_parquet(cell), 8, warmup_s=1.0)
        assert row.ttft_mean_s == expected["ttft_mean_s"]
        assert row.ttft_p99_s == expected["ttft_p99_s"]
    means = results[results.scenario == "equal"].groupby("policy")["ttft_mean_s"].mean()
    standing = summary["scenarios"]["equal@60"]["ttft_mean_s"]
    assert standing["best_rule"] == means[["least_in_flight", "round_robin"]].idxmin()
    assert standing["policies"]["linucb"]["kind"] == "learned"
    other = (means.index.difference([standing["best_rule"]]))[0]
    assert standing["policies"][other]["against_best_rule"][0] == pytest.approx(
        means[other] / means[standing["best_rule"]] - 1
    )
    overall = summary["overall"]["ttft_mean_s"]
    assert overall["linucb"]["verdict"]["num_scenarios"] == 2
    names = {"table.md", "summary.json", "profiles.png", "against_best_rule.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary

    before = files(tmp_path, "table.md", "cells/*.json")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/cells/*.parquet")}
    (lost := tmp_path / "throttled@80" / "cells" / "linucb-1.parquet").unlink()
    capsys.readouterr()
    run(tmp_path, SLICE, POLICIES)
    assert files(tmp_path, "table.md", "cells/*.json") == before
    remade = {path for path, at in stamps.items() if path.stat().st_mtime_ns != at}
    assert remade == {lost}

    with_more = run(tmp_path, "scenarios=[equal@60]", "policy=[least_in_flight,random]")
    assert set(with_more["scenarios"]["equal@60"]["means"]) == {"least_in_flight", "random"}
    kept = tmp_path / "equal@60" / "cells" / "least_in_flight-0.parquet"
    assert kept.stat().st_mtime_ns == stamps[kept]


def test_scenarios_without_their_trace_are_left_out_and_said_to_be(tmp_path, capsys):
    tiny = [each for each in TINY if "num_generated" not in each]
    summary = run(tmp_path, "scenarios=[equal@60,mooncake@60]", "policy=[random]", tiny=tiny)
    assert list(summary["scenarios"]) == ["equal@60"]
    assert "no trace at" in summary["left_out"]["mooncake@60"]
    output = capsys.readouterr().out
    assert "mooncake@60 is left out: workload: no trace at" in output
    assert "Left out, mooncake@60: workload: no trace at" in (tmp_path / "table.md").read_text()
    with pytest.raises(ConfigError, match="scenarios: nothing is left to run: workload: no trace at"):
        run(tmp_path / "none", "scenarios=[mooncake@60]", "policy=[random]", tiny=tiny)


def test_tuned_constants_run_beside_the_defaults_and_what_has_none_is_told(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text(
        json.dumps(
            {
                "about": "by hand",
                "equal": {"llmd_affinity": {"affinity_threshold": 0.1}},
                "equal@60": {"vllm_dp": {"waiting_weight": 9.0}},
            }
        )
    )
    names = "policy=[llmd_affinity,vllm_dp]"
    summary = run(tmp_path / "run", SLICE, names, f"tuned={path}")
    tuned_names = {f"{name}{end}" for name in ("llmd_affinity", "vllm_dp") for end in ("", "_tuned")}
    assert set(summary["scenarios"]["equal@60"]["means"]) == tuned_names
    assert set(summary["scenarios"]["throttled@80"]["means"]) == {"llmd_affinity", "vllm_dp"}
    assert summary["without_tuned_constants"] == {
        "llmd_affinity_tuned": ["throttled@80"],
        "vllm_dp_tuned": ["throttled@80"],
    }
    config = configured("benchmark", tmp_path / "run", names)
    node = _run_of(config, Scenario("equal", 60), tuned.files_of(str(path))).policies
    assert node["vllm_dp_tuned"].waiting_weight == 9.0
    assert node["vllm_dp"].waiting_weight == 4.0
    assert "vllm_dp_tuned" not in _run_of(config, Scenario("equal", 80), tuned.files_of(str(path))).policies


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([1], "holds no object: scenario -> policy"),
        ({"eqal": {}}, "'eqal' is none of the scenarios"),
        ({"equal@8O": {}}, "'equal@8O' is none of the scenarios .* with @LOAD in percent"),
        (
            {"equal": FINE, "throttled": {"vllm_dp": {"waiting_weight": -1.0}}},
            "policies.vllm_dp_tuned: waiting_weight is -1.0",
        ),
        ({"equal": {"random": 3}}, "equal must hold policy -> setting -> value"),
        ({"equal": {"vllm_dp": {"wait": 3}}}, "tuned: equal@60: vllm_dp has no setting 'wait'"),
    ],
)
def test_file_of_constants_that_does_not_fit_is_named(tmp_path, written, message):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", SLICE, "policy=[vllm_dp]", f"tuned={path}")
    assert not (tmp_path / "run").exists()


def test_file_of_constants_that_is_no_json_is_named(tmp_path):
    (path := tmp_path / "tuned.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tuned: \S+tuned.json: not JSON .*; mend it, or gather it anew"):
        run(tmp_path / "run", SLICE, "policy=[vllm_dp]", f"tuned={path}")


def test_constants_for_the_mean_and_for_the_tail_run_side_by_side(tmp_path):
    paths = [tmp_path / "tuned.json", tmp_path / "tail.json"]
    for path, weight in zip(paths, (9.0, 2.0), strict=True):
        path.write_text(json.dumps({"equal": {"vllm_dp": {"waiting_weight": weight}}}))
    paths[1].write_text(json.dumps({"equal": {"vllm_dp": {"waiting_weight": 2.0}, "random": {}}}))
    both = f"tuned={{tuned:{paths[0]},tuned_p99:{paths[1]}}}"
    asked = "scenarios=[equal@60]", "policy=[vllm_dp,random]"
    summary = run(tmp_path / "run", *asked, both)
    listed = ["random", "random_tuned_p99", "vllm_dp", "vllm_dp_tuned", "vllm_dp_tuned_p99"]
    assert sorted(summary["scenarios"]["equal@60"]["means"]) == listed
    assert summary["without_tuned_constants"] == {"random_tuned": ["equal@60"]}
    told = (tmp_path / "run" / "table.md").read_text()
    assert "There is no random_tuned: these rules were not tuned so." in told
    held = tuned.files_of({"tuned": str(paths[0]), "tuned_p99": str(paths[1])})
    node = _run_of(configured("benchmark", tmp_path, *asked, both), Scenario("equal", 60), held).policies
    assert node["vllm_dp_tuned"].waiting_weight == 9.0
    assert node["vllm_dp_tuned_p99"].waiting_weight == 2.0
    with pytest.raises(ConfigError, match=r"tuned: \[3\] is neither a file nor WORD -> file"):
        run(tmp_path / "none", *asked, "tuned=[3]")


def test_a_rule_of_the_papers_is_held_against_all(tmp_path):
    slice_of_one = ("scenarios=[equal@60]", "policy=[least_in_flight,random]")
    summary = run(tmp_path, *slice_of_one, "reference=random")
    means = pd.read_parquet(tmp_path / "results.parquet").groupby("policy")["ttft_mean_s"].mean()
    speedup = summary["speedups"]["homogeneous"]["least_in_flight"]["ttft_mean_s"]
    assert speedup["mean"] == pytest.approx(means["random"] / means["least_in_flight"])
    assert "Times better than random, homogeneous fleets" in (tmp_path / "table.md").read_text()
    with pytest.raises(ConfigError, match="reference: lmetric is none of least_in_flight, random"):
        run(tmp_path, *slice_of_one, "reference=lmetric")


def test_the_clairvoyant_is_the_bound_and_no_winner(tmp_path):
    policies = ["policy=[random,round_robin]", *BOUNDED, "bound_seeds=[1]"]
    summary = run(tmp_path, "scenarios=[equal@60]", *policies)
    assert "The bound was played on seeds 1 alone" in (tmp_path / "table.md").read_text()
    assert [path.stem for path in tmp_path.glob("*/cells/clair*.parquet")] == ["clairvoyant-1"]
    standing = summary["scenarios"]["equal@60"]["ttft_mean_s"]
    assert standing["policies"]["clairvoyant"]["kind"] == "bound"
    assert standing["winner"] != "clairvoyant"
    results = pd.read_parquet(tmp_path / "results.parquet").query("seed == 1").set_index("policy")
    values = results["ttft_mean_s"]
    worse = ({"random", "round_robin"} - {standing["best_rule"]}).pop()
    rule, bound = values[standing["best_rule"]], values["clairvoyant"]
    closed = standing["policies"][worse]["gap_closed"][0]
    assert closed == pytest.approx((rule - values[worse]) / (rule - bound))
    assert np.isclose(standing["policies"]["clairvoyant"]["gap_closed"][0], 1.0)


def test_the_bound_is_played_where_it_is_asked_for(tmp_path):
    asked = SLICE, "policy=[random]", *BOUNDED, "bound_seeds=[1]", "bound_scenarios=throttled"
    summary = run(tmp_path, *asked)
    assert [path.parts[-3] for path in tmp_path.glob("*/cells/clair*.parquet")] == ["throttled@80"]
    assert "clairvoyant" not in summary["scenarios"]["equal@60"]["means"]
    assert summary["without_bound"] == ["equal@60"]
    assert "The bound was not played in equal@60." in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("asked", ["all", "throttled", "[th*@60]"])
def test_the_bound_is_played_at_loads_that_are_not_of_the_suite(tmp_path, asked):
    of_bound = "policy=[random]", *BOUNDED, "seeds=[0]", f"bound_scenarios={asked}"
    summary = run(tmp_path, "scenarios=[throttled@60]", *of_bound)
    assert "clairvoyant" in summary["scenarios"]["throttled@60"]["means"]
    assert summary["without_bound"] == []


def test_two_tuned_policies_of_one_name_are_refused(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps({"equal": {"a": {"waiting_weight": 2.0}, "a_b": {"waiting_weight": 3.0}}}))
    policies = "+agent@policies.a=vllm_dp", "+agent@policies.a_b=vllm_dp"
    with pytest.raises(ConfigError, match=r"policies.a_b_c: the tuned a_b has this name too"):
        run(tmp_path / "run", "scenarios=[equal@60]", *policies, f"tuned={{b_c:{path},c:{path}}}")


def test_slices_share_cells_and_have_reports_of_their_own(tmp_path):
    run(tmp_path, "scenarios=[equal@60]", "policy=[random]", "seeds=[0]")
    whole, stamps = files(tmp_path), (tmp_path / "table.md").stat().st_mtime_ns
    run(tmp_path, "scenarios=[equal@60]", "policy=[random]", "report=both")
    assert len(list(tmp_path.glob("*/cells/*.parquet"))) == 2
    assert len(pd.read_parquet(tmp_path / "both" / "results.parquet")) == 2
    assert (tmp_path / "table.md").stat().st_mtime_ns == stamps
    assert {path.name for path in (tmp_path / "both").iterdir()} >= {"table.md", "summary.json"}
    assert OmegaConf.load(tmp_path / "both" / "config.yaml").report == "both"
    run(tmp_path, "scenarios=[equal@60]", "policy=[round_robin]", "report=other")
    assert whole.items() <= files(tmp_path).items()
    assert {tuple(each.policies) for each in find([tmp_path / "both"])} == {("random",)}
    assert {tuple(each.policies) for each in find([tmp_path / "other"])} == {("round_robin",)}
    with pytest.raises(ConfigError, match=r"report: '\.\./x' must be a folder's name"):
        run(tmp_path, "scenarios=[equal@60]", "policy=[random]", "report=../x")


@pytest.mark.filterwarnings("error")
def test_without_a_rule_nothing_is_said_against_one(tmp_path):
    summary = run(tmp_path, "scenarios=[equal@60]", "policy=[linucb]")
    assert summary["overall"] == {"ttft_mean_s": {}, "ttft_p99_s": {}}
    assert "all scenarios" not in (tmp_path / "table.md").read_text()


def test_overlapping_streams_are_said_to_make_intervals_narrow(tmp_path):
    """Requests of a generated trace that starts at random, all of which fit into a stream."""
    asked = "scenarios=[equal@60]", "policy=[random]"
    run(tmp_path / "apart", *asked)
    assert "in common" not in (tmp_path / "apart" / "table.md").read_text()
    summary = run(tmp_path / "alike", *asked, "+settings.workload.start=random")
    shared = summary["scenarios"]["equal@60"]["greatest_overlap"]["frac_shared"]
    told = (tmp_path / "alike" / "table.md").read_text()
    assert f"up to {shared:.0%} of their requests in common: the intervals are narrower" in told


def test_nobody_leads_where_nobody_was_served(tmp_path):
    asked = "scenarios=[equal@60]", "policy=[random,round_robin]"
    run(tmp_path, *asked)
    for path in (tmp_path / "equal@60" / "cells").glob("*.parquet"):
        ledger = pd.read_parquet(path)
        ledger["failure"] = "failed"
        ledger.to_parquet(path)
    run(tmp_path, *asked)
    assert "leads" not in (tmp_path / "table.md").read_text()


def test_what_was_trained_is_looked_for_by_scenario(tmp_path):
    config = configured(
        "benchmark", tmp_path, "policy=[linucb]", "+trained.linucb=runs/SCENARIO/LOAD/linucb-0"
    )
    run_config = _run_of(config, Scenario("prefix_50", 80), {})
    assert run_config.trained == {"linucb": "runs/prefix_50/80/linucb-0"}


def test_what_was_tuned_in_training_needs_a_training_run_of_its_own(tmp_path):
    policies = "policy=[linucb,maskable_ppo]", "+trained.linucb=a/SCENARIO", "+trained.maskable_ppo=b"
    files = {"tuned": {"equal": {"linucb": {"alpha": 3.0}, "maskable_ppo": {"learning_rate": 0.001}}}}
    run_config = _run_of(configured("benchmark", tmp_path, *policies), Scenario("equal", 80), files)
    assert run_config.trained == {"linucb": "a/equal", "linucb_tuned": "a/equal", "maskable_ppo": "b"}
    with pytest.raises(ConfigError, match=r"policies.maskable_ppo_tuned: it must be trained before"):
        build_policy(run_config, "maskable_ppo_tuned")
    own = configured("benchmark", tmp_path, *policies, "+trained.maskable_ppo_tuned=c/SCENARIO")
    assert _run_of(own, Scenario("equal", 80), files).trained["maskable_ppo_tuned"] == "c/equal"
    assert "maskable_ppo_tuned" not in _run_of(own, Scenario("azure", 80), files).trained


def test_what_was_not_trained_for_one_of_the_scenarios_is_told_before_anything_is_played(tmp_path):
    folder = tmp_path / "trained" / "equal"
    train(configured("train", folder, "agent=linucb", "total_timesteps=20", *TRAINED))
    missing = rf"{tmp_path}/trained/throttled/learner.npz does not exist: train first"
    with pytest.raises(FileNotFoundError, match=missing):
        run(tmp_path / "run", SLICE, "policy=[linucb]", f"+trained.linucb={tmp_path}/trained/SCENARIO")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "policy: there is none; give policy=NAME"),
        (["policy=[random]", "+settings.sed=1", "scenarios=azure"], "settings: Key 'sed' not in"),
        (
            ["policy=[random]", "+settings.scenario.split=tune", "scenarios=equal@60", "seeds=[0]"],
            "settings.scenario: choose a load by scenarios=NAME@LOAD, and streams by split=",
        ),
        (["policy=[random]", "bound_seeds=[1]"], "bound_seeds: there is no policy clairvoyant"),
        (["policy=[random]", "seeds=[]"], r"seeds: \[\] must be different whole numbers from 0"),
        (["policy=[random]", "seeds=[0,0]"], r"seeds: \[0, 0\] must be different whole numbers from 0"),
        (["policy=[random]", "seeds=[-1]"], r"seeds: \[-1\] must be different whole numbers from 0"),
        (["policy=[random]", "scenarios=[]"], "scenarios: there is none; write all, or NAME"),
        (["+agent@policies.clairvoyant=random"], "policy: clairvoyant is the bound, of others; add some"),
        (
            ["policy=[random]", "scenarios=equal@60", "seeds=[0,1]", *BOUNDED, "bound_seeds=[1,7]"],
            r"bound_seeds: \[1, 7\] must be some of the seeds, \[0, 1\]",
        ),
        (
            ["policy=[random]", "scenarios=equal@60", *BOUNDED, "bound_seeds=[]"],
            r"bound_seeds: \[\] must be some of the seeds",
        ),
        (["policy=[random]", "bound_scenarios=equal"], "bound_scenarios: there is no policy clairvoyant"),
        *[
            (
                ["policy=[random]", "scenarios=equal@60", *BOUNDED, f"bound_scenarios={asked}"],
                "bound_scenarios: .* must be some of the scenarios, equal@60$",
            )
            for asked in ("throttled", "equal@80", "[equal,none]", "[]", "null")
        ],
        (["policy=[random]", "num_workers=0"], "num_workers: 0 must be at least 1"),
        (
            ["policy=[random]", "+trained.other=x", "scenarios=azure"],
            r"trained.other: other is none of the policies \(random\)",
        ),
        (["policy=[random]", "tuned=none.json"], "tuned: there is no file none.json"),
        (["policy=[maskable_ppo]", "scenarios=equal@60"], "policies.maskable_ppo: it must be trained before"),
        (["policy=[random]", "scenarios=nowhere"], "scenarios: 'nowhere' fits none of"),
    ],
)
def test_bad_config_is_named(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        benchmark(configured("benchmark", tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()
