"""``python -m agents.distill`` as a user runs it."""

import inspect
import json
import re
import subprocess
import sys

import hydra.utils
import numpy as np
import pandas as pd
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from agents import checkpoint
from agents.config import register, register_policy_group
from agents.distill.__main__ import distill
from agents.distill.kept import best_rule, kept
from agents.distill.report import COMPARED, text
from agents.export import bundle
from agents.online import CHECKPOINT
from agents.summary import COMPARED as SUMMARISED
from agents.summary import summarise
from agents.train import train
from conf.build import ConfigError
from tests.agents.test_programs import CONF, TINY, configured, files

register()

QUICK = [
    "num_decisions=60",
    "num_rounds=2",
    "seeds=[0,1]",
    "num_workers=1",
    "warmup_s=0.1",
    "max_instances=8",
]
SMALL = [
    "students.tree.max_nodes=12",
    "students.tree.max_tested=2",
    "students.formula.max_nodes=12",
    "students.formula.beam=1",
    "students.formula.num_finalists=2",
    "students.formula.min_decisions=20",
]


@pytest.fixture(autouse=True)
def _policy_group():
    """The group is the program's alone; other tests of this process shall not see it."""
    register_policy_group()
    yield
    del ConfigStore.instance().repo["policy"]


def distilled(directory, *overrides, given=()):
    config = configured("distill", directory, *QUICK, *overrides)
    return distill(config, {override.split("=")[0] for override in overrides} | set(given))


@pytest.fixture(scope="module")
def of_a_rule(tmp_path_factory):
    """A distillation of a hand-made rule, and its summary."""
    register_policy_group()
    directory = tmp_path_factory.mktemp("distilled")
    return directory, distilled(directory, *TINY, "policy=llmd_affinity", *SMALL)


def test_what_lies_in_the_directory(of_a_rule):
    directory, summary = of_a_rule
    for student in ("tree", "formula"):
        names = {path.name for path in (directory / student).iterdir()}
        assert names == {"bundle", "rule.txt", "rule.py", "rule.go", "rule.cel"}
        assert (directory / student / "rule.txt").read_text() == summary["students"][student]["rule"]
        assert summary["students"][student]["num_nodes"] <= 12
        loaded = bundle.load(directory / student / "bundle")
        assert loaded.name == f"llmd_affinity_{student}"
        card = (directory / student / "bundle" / "card.md").read_text()
        assert "agents.heuristics.llmd_affinity.LlmdAffinity" in card
        assert "llmd_affinity (teacher)" in card  # its results
        assert "None: give results=" not in card
    assert json.loads((directory / "distill.json").read_text()) == summary
    attempts = pd.read_parquet(directory / "attempts.parquet")
    assert set(attempts["student"]) == {"tree", "formula"}
    assert attempts.groupby("student")["is_taken"].any().all()
    assert set(attempts["num_lessons"]) == {80, 160}
    text = (directory / "table.md").read_text()
    assert "llmd_affinity (teacher)" in text
    assert summary["students"]["formula"]["rule"] in text


def test_all_route_the_same_streams(of_a_rule):
    directory, summary = of_a_rule
    results = pd.read_parquet(directory / "results.parquet")
    names = {"llmd_affinity", "tree", "formula", "llmd_token_load", "dynamo_cost", "smg_least_load"}
    assert set(results["policy"]) == names == set(summary["policies"])
    assert len(results) == 2 * len(names)
    streams = [
        pd.read_parquet(directory / "cells" / f"{name}-1.parquet")[["arrived_at_s", "num_prompt_tokens"]]
        for name in ("llmd_affinity", "tree", "formula")
    ]
    for other in streams[1:]:
        pd.testing.assert_frame_equal(streams[0], other)
    rules = ["llmd_token_load", "dynamo_cost", "smg_least_load"]
    assert summary["best_rule"] == min(rules, key=lambda name: summary["policies"][name]["ttft_mean_s"][0])


def test_a_run_brings_agent_and_world_and_the_same_again_is_the_same_bytes(tmp_path):
    run = train(configured("train", tmp_path / "run", *TINY, "agent=linucb"))
    overrides = [f"run={run}", "+measured.num_requests=50", "~student@students.tree", *SMALL[2:]]
    summary = distilled(tmp_path / "here", *overrides)
    assert summary["teacher"] == "linucb"
    assert summary["seeds"] == [0, 1]
    assert "50 consecutive requests" in str(summary["workload_notes"])  # learned from: 40
    before = files(tmp_path / "here", "cells/*.json")
    (tmp_path / "here").rename(tmp_path / "before")
    distilled(tmp_path / "here", *overrides)
    assert files(tmp_path / "here", "cells/*.json") == before


def test_a_learner_learns_in_training_and_is_measured_in_the_scenario(tmp_path):
    """In a scenario of the benchmark: without a run, and by the run that was written then."""
    short = ["workload.num_generated=60", "num_taught=60", "warmup_s=0"]
    world = ["experiment=bench/fast_slow", "scenario.split=tune", *short]
    tuned = tmp_path / "tuned.json"
    constants = {"dynamo_cost": {"prefill_weight": 8.0}, "marginal_delay": {"home": 3.25}}
    tuned.write_text(json.dumps({"fast_slow@80": constants}))
    rules = [f"tuned={tuned}", "tuned_for=fast_slow@80", "~agent@rules.smg_least_load"]
    students = ["~student@students.tree", *SMALL[2:]]
    summary = distilled(tmp_path / "here", *world, *rules, *students, "policy=marginal_delay")
    assert summary["teacher"] == "marginal_delay_tuned"
    assert set(summary["policies"]) == {
        "marginal_delay_tuned",
        "formula",
        "llmd_token_load",
        "dynamo_cost",
        "dynamo_cost_tuned",
    }
    assert "from seed 2" in str(summary["workload_notes"])  # trace_seeds.tune; learned from: 1
    card = (tmp_path / "here" / "formula" / "bundle" / "card.md").read_text()
    assert "  seed: 1\n" in card.partition("workload:")[2]
    assert "home: 3.25" in card
    taught = checkpoint.load(tmp_path / "here" / "teacher" / CHECKPOINT)
    assert taught["num_decisions"] == 60
    trained = [world[0], "scenario.split=train", short[0], "agent=marginal_delay"]
    run = train(configured("train", tmp_path / "run", *trained))
    again = distilled(tmp_path / "there", *world, *students, f"run={run}")
    assert again["teacher"] == "marginal_delay"
    assert again["policies"]["dynamo_cost"] == summary["policies"]["dynamo_cost"]  # the same streams


@pytest.mark.parametrize("path", sorted((CONF / "student").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_of_students_state_each_setting_and_its_default(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    parameters = inspect.signature(hydra.utils.get_class(config.pop("_target_"))).parameters
    assert config == {key: parameter.default for key, parameter in parameters.items()}


def test_gain_kept_by_hand():
    rows = [("teacher", 0, 1.0), ("teacher", 1, 2.0), ("student", 0, 1.5), ("student", 1, 2.0)]
    rows += [("rule", 0, 2.0), ("rule", 1, 3.0), ("other", 0, 9.0), ("other", 1, 0.0)]
    results = pd.DataFrame(rows, columns=["policy", "seed", "ttft_mean_s"])
    assert best_rule(results, ["rule", "other"]) == "rule"
    share = kept(results, "student", "teacher", "rule", "ttft_mean_s")
    assert share.value == 0.75  # (2.5 - 1.75) / (2.5 - 1.5)
    assert (share.low, share.high) == (0.5, 1.0)  # both seeds the first, or the second
    assert np.isnan(kept(results, "student", "rule", "teacher", "ttft_mean_s")).all()
    results.loc[results.policy == "teacher", "ttft_mean_s"] = [2.5, 1.5]  # better in one seed of the two
    share = kept(results, "student", "teacher", "rule", "ttft_mean_s")
    assert share.value == 1.5  # (2.5 - 1.75) / (2.5 - 2)
    assert np.isnan([share.low, share.high]).all()


def test_a_rule_that_served_nobody_on_a_stream_is_not_the_best():
    rows = [("lost", 0, np.nan), ("lost", 1, 0.5), ("served", 0, 1.0), ("served", 1, 2.0)]
    results = pd.DataFrame(rows, columns=["policy", "seed", "ttft_mean_s"])
    assert best_rule(results, ["lost", "served"]) == "served"
    with pytest.raises(
        ValueError, match=r"rules: none of lost served requests on every stream, .* add another"
    ):
        best_rule(results, ["lost"])


def test_the_report_tells_of_each_figure_by_itself():
    """Of a teacher with a worse mean than the rule and a better P99, on one stream, where requests failed."""
    figures = {
        "rule": {"ttft_mean_s": 1.0, "ttft_p99_s": 4.0, "num_failed": 0.0},
        "teacher": {"ttft_mean_s": 2.0, "ttft_p99_s": 3.0, "num_failed": 1.0},
        "student": {"ttft_mean_s": 1.5, "ttft_p99_s": 3.5, "num_failed": 0.0},
    }
    rows = [{"policy": name, "seed": 0, **row} for name, row in figures.items()]
    results = pd.DataFrame(rows).assign(**dict.fromkeys(("frac_slo_met", *SUMMARISED), 1.0))
    results[["ttft_mean_s", "ttft_p99_s"]] = [[1.0, 4.0], [2.0, 3.0], [1.5, 3.5]]
    shares = {figure: kept(results, "student", "teacher", "rule", figure).plain() for figure in COMPARED}
    student = {"num_nodes": 1, "rule": "", "kept": shares}
    about = {"teacher": "teacher", "best_rule": "rule", "warmup_s": 0.0, "workload_notes": ["some"]}
    told = text(summarise(results, "rule") | about | {"students": {"student": student}})
    assert "teacher has no lower mean TTFT than rule: of that there is no gain to keep." in told
    assert "no lower P99" not in told
    assert "Requests failed: latencies are of those served" in told
    lines = [re.sub(" +", " ", line) for line in told.splitlines()]
    assert "| student | 1.500 | +50.0% | 3.500 | -12.5% | - | 50% | 1 |" in lines


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], r"one teacher is needed, and run is None and policies are \[\]; give run="),
        (["run=nowhere", "policy=random"], "one teacher is needed, and run is nowhere"),
        (["run=nowhere"], "run: nowhere holds no config.yaml"),
        (["policy=maskable_ppo"], "policies.maskable_ppo: it must be trained before; train it and give run="),
        (["policy=random", "num_taught=0"], "num_taught is 0"),
        (["policy=random", "tuned=some.json"], "tuned, tuned_for: some.json and None; give both, or neither"),
        (["policy=dynamo_cost"], r"dynamo_cost: .* need different names; leave it out \(~agent@rules.dynamo"),
        (["policy=random", "seeds=[0,1000]"], "seeds: .* to below seed"),
        (["policy=random", "num_rounds=0"], "num_rounds is 0"),
        (["policy=random", "+measured.prat=test"], "workload.prat: .* takes no such key"),
        (
            ["policy=random", "~student@students.tree", "~student@students.formula"],
            "students: there are none",
        ),
        (["policy=random", "cluster=live"], "there is no file"),
        (["policy=random"], "scored all instances alike"),
    ],
)
def test_what_cannot_be_distilled_is_told(overrides, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, ValueError), match=reason):
        distilled(tmp_path / "run", *TINY, *overrides)


def test_the_command():
    command = [sys.executable, "-m", "agents.distill", "policy=thompson", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert "a policy as a rule that a person can read" in said
    assert "student: formula, tree" in said
    assert "_target_: agents.bandits.thompson.Thompson" in said  # policy= is known
