"""The programs: a tiny report and a tiny hardening are made, taken up again, and refuse what is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from adversary.cells import CLEAN, Cell, read

ROOT = Path(__file__).parents[2]
TINY = ("experiment=robustness/tiny", "num_workers=1")
SHORT = (
    "num_workers=1",
    "seeds=[1,2]",
    "attack_seed=0",
    "duration_s=10",
    "threats.world.num_windows=2",
    "workload.num_generated=4000",
    "workload.num_requests=500",
)
TRAIN = ("experiment=robustness/train", "workload.num_generated=4000", "workload.num_requests=60")


def run(module, *arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("robustness")
    done = run("adversary.report", *TINY, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "runs" / "robustness_tiny" / "robustness"


def test_a_tiny_report_is_whole(made):
    report = json.loads((made / "report.json").read_text())
    assert {row["victim"] for row in report["headline"]} == {"round_robin", "least_in_flight", "vllm_dp"}
    assert set(report["threats"]) == {"spoof", "world"}
    assert report["validated"]["num_violations"] == 0
    assert report["validated"]["num_steps"] > 1000
    by_attack = {(row["victim"], row["attack"]): row for row in report["cells"]}
    # who looks at nothing cannot be deceived
    assert by_attack["round_robin", "spoof-search@vllm_dp"]["degradation"]["ttft_mean_s"]["value"] == 0.0
    # its own counters tell it all
    assert by_attack["least_in_flight", "spoof-search@vllm_dp"]["degradation"]["ttft_mean_s"]["value"] == 0.0
    assert report["transfer"]["world"]["targets"] == ["round_robin", "least_in_flight", "vllm_dp"]
    assert report["epsilon"]["spoof"]["epsilons"] == [0.0, 0.5, 1.0]
    half, whole = report["epsilon"]["world"]["victims"]["vllm_dp"]["ttft_mean_s"][1:]
    assert half != whole
    assert (
        by_attack["vllm_dp", "clean"]["metrics"]["ttft_mean_s"]["low"]
        < (by_attack["vllm_dp", "clean"]["metrics"]["ttft_mean_s"]["high"])
    )  # different streams
    [trace] = report["worst_traces"]
    assert len(trace["time_s"]) == 4
    assert all(len(series) == 4 for series in trace["knobs"].values())
    html = (made / "report.html").read_text()
    assert "vllm_dp" in html
    assert "https://" not in html.split("<script")[0]
    assert list(made.glob("*.png"))
    assert pq.read_table(made / "results.parquet").num_rows == sum(
        len(json.loads(path.read_text())["rows"]) for path in (made / "cells").iterdir()
    )


def test_an_attack_on_the_world_replays_in_the_evaluator_to_the_harm_that_was_found(made, tmp_path):
    attack = made / "attacks" / "world-search@vllm_dp"
    report = json.loads((made / "report.json").read_text())
    [command] = [line for line in report["commands"] if line.startswith("routegym-evaluate")]
    parts = command.split("    (")[0].replace("runs/robustness_tiny/robustness/attacks/ATTACK", str(attack))
    policies = ("+agent@policies.vllm_dp=vllm_dp", "+agent@policies.round_robin=round_robin")
    done = run("agents.evaluate", *parts.split()[1:], *policies, "reference=round_robin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.rglob("results.parquet")
    mean_s = {row["policy"]: row["ttft_mean_s"] for row in pq.read_table(file).to_pylist()}
    found = json.loads(attack.with_suffix(".json").read_text())["harm"]
    assert mean_s["vllm_dp"] - mean_s["round_robin"] == pytest.approx(found, rel=1e-9)


def test_the_same_command_makes_nothing_anew_and_the_same_bytes(made):
    before = {path: path.stat().st_mtime_ns for path in (made / "cells").iterdir()}
    bytes_before = (made / "report.json").read_bytes(), (made / "report.html").read_bytes()
    done = run("adversary.report", *TINY, cwd=made.parents[2])
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (made / "cells").iterdir()} == before
    assert ((made / "report.json").read_bytes(), (made / "report.html").read_bytes()) == bytes_before


def test_a_report_that_was_stopped_goes_on_and_ends_in_the_same_figures(made, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "adversary.report", *TINY]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        directory = tmp_path / "runs" / "robustness_tiny" / "robustness"
        for _ in range(3000):
            if len(list(directory.glob("cells/*.json"))) >= 3 or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        code, told = process.wait(60), process.stderr.read().decode()
        assert code == 130, told
        assert "the same command goes on" in told
    kept = {path: path.stat().st_mtime_ns for path in directory.glob("*/*.json")}
    assert len(kept) >= 3
    done = run("adversary.report", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (directory / "report.json").read_bytes() == (made / "report.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there are none; choose an experiment"),
        ((*TINY, "reference=nobody"), "reference: 'nobody' is none of the policies"),
        ((*TINY, "attack_seed=1"), "attack_seed: 1 must not be negative, nor one of seeds"),
        ((*TINY, "epsilons=[0,1]"), "epsilons"),
        ((*TINY, "plan.spoof=[magic]"), "plan.spoof: 'magic' is unknown; give names of random, search"),
        ((*TINY, "plan.spoof=[search,search]"), "plan.spoof: search is given twice"),
        ((*TINY, "+plan.cloud=[random]"), "plan.cloud: 'cloud' is unknown; give names of spoof, world"),
        ((*TINY, "harm_reference=nobody"), "harm_reference: 'nobody' is none of the policies"),
        ((*TINY, "transfer=serach"), "transfer: 'serach' is none of the attackers"),
        ((*TINY, "transfer=random"), "transfer: 'random' must be in the plan of a threat and look at"),
        ((*TINY, "+trained.nobody=runs"), "trained: 'nobody' is unknown; give names of round_robin"),
        ((*TINY, "warmup_s=100"), "warmup_s: 100"),
        (
            (*TINY, "warmup_s=19.999"),
            "warmup_s: no request of seed 0 arrives between 19.999 s and duration_s",
        ),
        (
            (*TINY, "seeds=[102]", "attack_seed=1"),  # what an attack may bring forward counts too
            "seeds: the stream of seed 102 has 33 of its 330 requests in common",
        ),
        ((*TINY, "workload.start=first"), "seeds: the stream of seed 1 has .* in common"),
        ((*TINY, "attackers.search.num_evaluations=0"), "num_evaluations is 0"),
        ((*TINY, "+only.search=[nobody]"), "only.search: 'nobody' is unknown; give names of round_robin"),
        ((*TINY, "threats.world.num_windows=5"), "5 windows of 5 s are not duration_s"),
        ((*TINY, "threats.world.rate_factor=[2,1]"), "rate_factor: its bounds"),
        ((*TINY, "threats.spoof.budget.max_instances=0"), "max_instances is 0"),
        ((*TINY, "threats.spoof.budget.max_slope=0"), "max_slope is 0"),
        ((*TINY, "+threats.spoof.perturbations.0.busy.num_wating=3"), "num_wating.*num_waiting"),
        ((*TINY, "attackers.search.num_evaluation=3"), "num_evaluation"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_is_written(tmp_path, arguments, message):
    done = run("adversary.report", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.json"))


def test_help(tmp_path):
    for module in ("adversary.report", "adversary.harden"):
        done = run(module, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "Examples:" in done.stdout


def test_the_report_of_the_readme_in_a_tiny_form(tmp_path):
    trained = run("agents.train", *TRAIN, "agent=linucb", "total_timesteps=60", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    few = [f"attackers.{name}.num_evaluations=2" for name in ("worst_of", "search", "rl", "rl_short")]
    few += [f"attackers.{name}.episodes_per_update=1" for name in ("rl", "rl_short")]
    only = [f"only.{name}=[smg_least_load]" for name in ("worst_of", "rl", "rl_short")]
    gone = ["maskable_ppo", "least_kv_cache", "aibrix_prefix", "llmd_weighted", "dynamo_cost", "cache_aware"]
    done = run(
        "adversary.report",
        "experiment=robustness/report",
        *SHORT,
        *few,
        *only,
        *(f"~policies.{name}" for name in gone),
        "~trained.maskable_ppo",
        "~trained.lodestar",
        "policies.lodestar.retrain_every=300",
        "attackers.pgd.num_steps=1",
        "epsilons=[1.0]",
        "num_timelines=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs" / "robustness" / "robustness" / "report.json").read_text())
    assert len(report["victims"]) == 12
    assert {attack["attacker"] for attack in report["attacks"].values()} == {
        "random",
        "search",
        "pgd",
        "rl_short",
        "worst_of",
        "rl",
    }
    assert {row["defence"] for row in report["defences"]} == {
        "smg_trust_counters",
        "smg_median",
        "smg_lie_detection",
        "smg_clip",
        "smg_fallback",
    }
    assert any("pgd on spoof: not for round_robin" in line for line in report["not_tested"])


def test_hardening_in_a_tiny_form(tmp_path):
    command = (
        "experiment=robustness/harden_rl",
        *SHORT,
        "agent=linucb",
        "total_timesteps=200",
        "attackers.search.num_evaluations=2",
        "attackers.rl.num_evaluations=2",
        "attackers.rl.episodes_per_update=1",
        "rounds=1",
        "frac_attacked=0.5",
    )
    done = run("adversary.harden", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "runs" / "robustness_rl" / "hardening"
    result = json.loads((directory / "training.json").read_text())
    assert {row["policy"] for row in result["rows"]} == {"LinUCB"}
    by_set = {row["set"]: row for row in result["rows"]}
    named = ["adversarial", "adversarial, spoof", "adversarial, world"]
    assert list(by_set) == ["clean", "synthetic", "real", "random", *named]
    for when in ("before", "after"):  # the worst of all is the worst of one
        worst_s, *of_threats = (by_set[name][when]["value"] for name in named)
        assert worst_s == max(of_threats)
    assert "| adversarial" in (directory / "training.md").read_text()
    config = (directory / "round_1" / "config.yaml").read_text()
    assert "world-rl@before.json" in config
    assert "world-random" not in config  # what knows no victim is no adversary
    before = (directory / "training.json").read_bytes()
    again = run("adversary.harden", *command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (directory / "training.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rounds=0",), r"rounds \(0\) must be at least 1"),
        (("plan.spoof=[random]", "plan.world=[random]"), "plan: random look at no victim"),
        (("agent=smg_least_load",), "SmgLeastLoad has nothing to learn"),
    ],
)
def test_a_hardening_that_could_not_harden_is_refused(tmp_path, arguments, message):
    done = run("adversary.harden", "experiment=robustness/harden", *SHORT, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_results_that_are_none_are_named(tmp_path):
    (tmp_path / "a~clean.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"a~clean\.json: no results of a router under an attack; delete it"):
        read([Cell("a", CLEAN, (1.0,))], tmp_path)
