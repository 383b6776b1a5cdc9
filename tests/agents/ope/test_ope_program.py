"""The program as a user runs it: on recordings that the other programs made."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hydra.core.config_store import ConfigStore

from agents.config import register, register_policy_group
from agents.evaluate import evaluate as evaluate_by_playing
from agents.ope.__main__ import evaluate
from agents.train import train
from conf.build import ConfigError
from tests.agents.test_programs import TINY as TINY_WORLD
from tests.agents.test_programs import configured

from .recordings import outcome, write

register()


@pytest.fixture(autouse=True)
def _policy_group():
    """The group is the program's alone; other tests of this process shall not see it."""
    register_policy_group()
    yield
    del ConfigStore.instance().repo["policy"]


TINY = [*TINY_WORLD, "workload.num_requests=150"]
QUICK = ["direct_model.training.num_epochs=2"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Directory of recordings of two seeds, by a policy that explores and by one that does not."""
    directory = tmp_path_factory.mktemp("played")
    settings = ["seeds=[0,1]", "num_workers=1", "warmup_s=0", "window_s=1", "reference=random", "record=true"]
    policies = ["+agent@policies.random=random", "+agent@policies.least=session_hash"]
    evaluate_by_playing(configured("evaluate", directory, *TINY, *settings, *policies))
    return directory / "recordings"


def test_the_commands_of_the_issue(recordings, tmp_path):
    both = f"recording=[{recordings}/random-0,{recordings}/random-1]"
    summary = evaluate(configured("ope", tmp_path / "it", both, "policy=llmd_token_load", *QUICK))
    assert summary["num_decisions"] == 300
    assert summary["num_episodes"] == 2
    figures = summary["policies"]["llmd_token_load"]
    for name in ("ips", "snips", "dr", "dm"):
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    assert 50 < figures["effective_sample_size"] <= 300
    assert figures["greatest_weight"] <= 2
    assert figures["warnings"] == []
    rows = pd.read_parquet(tmp_path / "it" / "results.parquet")
    assert len(rows) == 300
    assert (rows["weight"] * rows["cost"]).mean() == pytest.approx(figures["ips"]["value"])
    assert rows["doubly_robust"].mean() == pytest.approx(figures["dr"]["value"])
    assert rows["expected"].mean() == pytest.approx(figures["dm"]["value"])
    assert json.loads((tmp_path / "it" / "ope.json").read_text()) == summary
    assert (tmp_path / "it" / "ope.png").stat().st_size > 0
    text = (tmp_path / "it" / "table.md").read_text()
    assert re.search(r"llmd_token_load +\| \d\.\d{3} \[", text)
    assert "Each decision is judged alone" in text

    learned = train(configured("train", tmp_path / "learned", *TINY, "agent=linucb"))
    short = configured("ope", tmp_path / "short", both, "policy=linucb", f"trained={learned}", *QUICK)
    full = configured(
        "ope", tmp_path / "full", both, "+agent@policies.linucb=linucb", f"+trained.linucb={learned}", *QUICK
    )
    assert evaluate(short) == evaluate(full)


def test_the_recorded_policy_costs_what_was_recorded(recordings, tmp_path):
    config = configured("ope", tmp_path / "it", f"recording={recordings}/random-0", "policy=random", *QUICK)
    summary = evaluate(config)
    figures = summary["policies"]["random"]
    assert figures["ips"] == figures["snips"] == summary["recorded"]
    assert figures["effective_sample_size"] == 150
    assert figures["mean_weight"] == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("model", ["linear", "network"])
def test_same_config_same_bytes(model, recordings, tmp_path):
    written = []
    for name in "ab":
        quick = QUICK if model == "network" else []
        overrides = [
            "policy=[power_of_two,least_in_flight]",
            f"direct_model={model}",
            "num_blocks=20",
            *quick,
        ]
        evaluate(configured("ope", tmp_path / name, f"recording={recordings}/random-0", *overrides))
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0].keys() == {"config.yaml", "ope.json", "ope.png", "results.parquet", "table.md"}
    assert written[0] == written[1]


def test_policies_of_own_settings_stand_beside_short_ones(recordings, tmp_path):
    summary = evaluate(
        configured(
            "ope",
            tmp_path / "it",
            f"recording={recordings}/random-0",
            "policy=[dynamo_cost,random]",
            "+agent@policies.mine=dynamo_cost",
            "policies.mine.temperature=1000",
            "cost=slo_miss",
            "max_weight=1.5",
            *QUICK,
        )
    )
    assert set(summary["policies"]) == {"dynamo_cost", "random", "mine"}
    nearly_random = summary["policies"]["mine"]["ips"]["value"]
    assert nearly_random == pytest.approx(summary["recorded"]["value"], abs=1e-2)
    clipped = summary["policies"]["dynamo_cost"]
    assert clipped["greatest_weight"] == 1.5
    assert clipped["frac_clipped"] > clipped["frac_weight_cut"] > 0
    assert any("weights are cut" in reason for reason in clipped["warnings"])


def test_a_policy_without_support_is_refused_with_the_share(recordings, tmp_path):
    """One router's round robin left nothing to chance."""
    config = configured("ope", tmp_path / "it", f"recording={recordings}/least-0", "policy=random", *QUICK)
    with pytest.raises(
        ConfigError, match=r"policies\.random: \d\d\.\d% of its decisions go where the recorded"
    ):
        evaluate(config)
    config.max_unsupported = 1.0
    reasons = evaluate(config)["policies"]["random"]["warnings"]
    assert any("where none could have been recorded" in reason for reason in reasons)


def test_too_few_samples_are_said_to_be_too_few(tmp_path):
    outcomes = [outcome(number, ttft_s=1.0 + number % 7) for number in range(40)]
    recording = write(tmp_path / "recording", outcomes, 40)
    summary = evaluate(
        configured("ope", tmp_path / "it", f"recording={recording}", "policy=random", "direct_model=linear")
    )
    assert "worth 40 recorded ones of 40: too few" in summary["policies"]["random"]["warnings"][0]
    text = (tmp_path / "it" / "table.md").read_text()
    assert re.search(r"\| random \(!\) +\| \d\.\d{3} \[\?\]", text)
    assert "(!) random: its decisions are worth 40" in text


def test_weights_whose_mean_is_not_one_are_told(tmp_path):
    """The recording says even chances, and the first instance was in truth chosen always but once."""
    outcomes = [outcome(number, ttft_s=1.0) for number in range(200)]
    recording = write(tmp_path / "recording", outcomes, 200, propensities=(0.9, 0.1))
    summary = evaluate(
        configured("ope", tmp_path / "it", f"recording={recording}", "policy=random", "direct_model=linear")
    )
    figures = summary["policies"]["random"]
    assert figures["mean_weight"]["value"] == pytest.approx((0.5 / 0.9 + 0.5 / 0.1) / 2)
    assert "its weights' mean is 2.78, where it should be 1" in figures["warnings"][0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "policy: there is none; give policy=NAME"),
        (["policy=linucb"], r"policies\.linucb: it learns, and here would always decide as before"),
        (["policy=maskable_ppo"], r"policies\.maskable_ppo: it must be trained before"),
        (["policy=[random,linucb]", "trained=x"], r"trained: 'x' is of one policy and there are 2"),
        (["policy=random", "+trained.other=x"], r"trained\.other: other is none of the policies \(random\)"),
        (["policy=random", "trained=x"], r"trained\.random: random learns nothing"),
        (["policy=random", "num_folds=1"], "num_folds: 1 would judge"),
        (["policy=random", "num_blocks=0"], "num_blocks is 0"),
        (["policy=random", "max_weight=0"], "max_weight is 0"),
        (["policy=random", "max_unsupported=2"], "max_unsupported is 2"),
        (["policy=random", "cost=ttft"], "cost is 'ttft'"),
        (["policy=random", "recording=null"], "recording: there is none; give recording=<directory"),
        (["policy=random", "recording=3"], "recording: 3 is no directory"),
        (["policy=random", "num_folds=9", "num_blocks=4"], "num_folds is 9, and there are 4 stretches"),
        (["policy=random", "direct_model=linear", "direct_model.ridge=-1"], "direct_model: ridge is -1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(overrides, message, tmp_path):
    recording = write(tmp_path / "recording", [outcome(number) for number in range(40)], 40)
    with pytest.raises(ValueError, match=message):
        evaluate(configured("ope", tmp_path / "it", f"recording={recording}", *overrides))


def test_errors_are_one_line(tmp_path):
    words = [f"recording={tmp_path}", "policy=random", f"hydra.run.dir={tmp_path}/it"]
    command = [sys.executable, "-m", "agents.ope", *words]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"agents.ope: {tmp_path} holds no recording")
    assert refused.stderr.count("\n") == 1


def test_what_fits_in_the_table_is_finite(recordings, tmp_path):
    config = configured(
        "ope", tmp_path / "it", f"recording={recordings}/random-0", "policy=round_robin", *QUICK
    )
    rows = evaluate(config) and pd.read_parquet(tmp_path / "it" / "results.parquet")
    assert np.isfinite(rows.drop(columns="policy").to_numpy(np.float64)).all()
