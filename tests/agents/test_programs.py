"""The programs as a user runs them: every config composes, every experiment runs, runs are taken up again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from agents import checkpoint
from agents.config import register
from agents.evaluate import evaluate
from agents.online import CHECKPOINT
from agents.train import train
from conf.build import ConfigError, build
from envs.emulator.compilation import NOTICE

CONF = Path(__file__).parents[2] / "conf"
LIVE = {"live", "twin"}  # clusters that ask servers
OTHER_EXPERIMENTS = {
    "fidelity",
    "fidelity_cpu",
    "live",
}  # test_fidelity.py, and test_programs_live.py on servers
TINY = [
    "cluster=tiny",
    "workload=generated",
    "workload.num_generated=200",
    "workload.num_requests=40",
    "workload.start=random",
    "workload.rate_per_s=20",
    "workload.max_model_len=2000",
    "workload.prompt_median=300",
    "workload.prompt_min=1",
    "workload.prompt_max=1500",
    "workload.output_median=20",
    "workload.output_max=100",
]
TINY_DEMO = [
    "cluster=tiny",
    "workload.num_requests=40",
    "workload.rate_per_s=20",
    "workload.max_prompt_tokens=1500",
    "workload.max_output_tokens=100",
]
TINY_TRAIN = {
    "lodestar": ["agent.first_training=20", "agent.retrain_every=20", "agent.training.num_epochs=1"],
    "maskable_ppo": ["agent.n_steps=16", "agent.num_envs=2", "agent.batch_size=16", "total_timesteps=64"],
    "dqn": ["agent.num_envs=2", "agent.learning_starts=10", "agent.buffer_size=100", "total_timesteps=64"],
    "qr_dqn": ["agent.num_envs=2", "agent.learning_starts=10", "agent.buffer_size=100", "total_timesteps=64"],
    "imitation": ["agent.round_timesteps=40", "agent.n_epochs=2", "total_timesteps=60"],
}
register()


def configured(program, directory, *overrides):
    """The program's config with these overrides, its run in ``directory``."""
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, [*overrides, f"directory={directory}"])


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def tiny_evaluation(directory, *overrides):
    return configured(
        "evaluate", directory, *TINY, "seeds=[0,1]", "num_workers=1", "warmup_s=0.1", "window_s=1", *overrides
    )


def files(directory, *except_for):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(path.match(pattern) for pattern in except_for)
    }


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("agent", "cluster", "env", "reward", "workload", "world", "logger")
        for option in options(group)
    ],
)
def test_every_option_composes_and_is_built(group, option, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    config = configured("train", tmp_path, f"{group}={option}")
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if option in LIVE:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=r"there is no file runs/live/endpoints\.json"):
            build(config[group], group)
    elif option == "bundle":
        with pytest.raises(ConfigError, match="directory is null: give the folder of a bundle"):
            build(config.agent, "agent")
    elif group in ("agent", "cluster", "reward"):
        build(config[group], group)
    if group == "world":
        for cluster in sorted(set(options("cluster")) - LIVE):
            world = build(config.world, "world")
            assert (
                build(configured("train", tmp_path, f"cluster={cluster}").cluster, "", world=world).world
                is world
            )
    if group == "workload":
        if "on_missing" in config.workload:
            config.workload.on_missing = "generate"
        if option in ("recording", "stored"):  # which must be told what to replay
            with pytest.raises(ConfigError, match="workload: path is null: give the"):
                build(config.workload, "workload")
            return
        if option in ("servegen", "weka"):  # which nothing stands in for
            with pytest.raises(ConfigError, match=f"workload: no trace at .*{option}"):
                build(config.workload, "workload")
            return
        build(config.workload, "workload")


@pytest.mark.parametrize("experiment", sorted({*options("experiment")} - OTHER_EXPERIMENTS))
def test_every_experiment_runs_in_a_tiny_form(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    tiny = [f"experiment={experiment}", *(TINY_DEMO if "/workload: demo" in text else TINY)]
    if "/agent@policies" not in text and "heuristics" not in text:
        config = configured("train", tmp_path / "run", *tiny)
        agent = next(name for name in TINY_TRAIN if name in config.agent._target_)
        train(configured("train", tmp_path / "run", *tiny, *TINY_TRAIN[agent]))
        return
    short = ["seeds=[0,1]", "num_workers=1", "warmup_s=0.1", "window_s=1"]
    config = configured("evaluate", tmp_path / "run", *tiny, *short)
    for name, directory in list(config.trained.items()):
        agent = next(kind for kind in TINY_TRAIN if kind in config.policies[name]._target_)
        option = Path(directory).name.rsplit("-", 1)[0]
        train(configured("train", tmp_path / name, *TINY, f"agent={option}", *TINY_TRAIN[agent]))
        config.trained[name] = str(tmp_path / name)
    summary = evaluate(config)
    assert set(summary["policies"]) == set(config.policies)


@pytest.mark.parametrize("agent", ["lodestar", "linucb", "maskable_ppo"])
def test_same_seed_same_bytes_of_train_and_evaluate(agent, tmp_path):
    written = []
    for number in range(2):
        directory = tmp_path / f"trained-{number}"
        train(configured("train", directory, *TINY, f"agent={agent}", *TINY_TRAIN.get(agent, [])))
        config = tiny_evaluation(
            tmp_path / f"evaluated-{number}",
            f"+agent@policies.learned={agent}",
            "+agent@policies.least=least_in_flight",
            *(
                f"policies.learned.{key.removeprefix('agent.')}"
                for key in TINY_TRAIN.get(agent, [])
                if key.startswith("agent.")
            ),
            "reference=least",
        )
        # The path of the trained agent is part of the config, so keep it the same.
        link = tmp_path / "trained"
        link.unlink(missing_ok=True)
        link.symlink_to(directory)
        config.trained = {"learned": str(link)}
        evaluate(config)
        written.append(files(directory) | files(tmp_path / f"evaluated-{number}", "table.md", "cells/*.json"))
    assert written[0].keys() == written[1].keys()
    assert [name for name in written[0] if written[0][name] != written[1][name]] == []
    assert {"results.parquet", "summary.json", "ttft_cdf.png", "ttft_over_time.png"} <= written[0].keys()


def test_results_agree_with_the_ledgers(tmp_path):
    config = tiny_evaluation(
        tmp_path, "+agent@policies.a=round_robin", "+agent@policies.b=least_in_flight", "reference=a"
    )
    summary = evaluate(config)
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == 4
    for row in results.itertuples():
        ledger = pd.read_parquet(tmp_path / "cells" / f"{row.policy}-{row.seed}.parquet")
        assert len(ledger) == 40
        counted = ledger[ledger.arrived_at_s >= 0.1]
        assert row.ttft_mean_s == pytest.approx(counted.ttft_s.mean())
        assert row.ttft_p90_s == pytest.approx(np.percentile(counted.ttft_s, 90))
        assert row.frac_prefix_hits == pytest.approx(
            counted.num_cached_tokens.sum() / counted.num_prompt_tokens.sum()
        )
    a, b = (results[results.policy == name].ttft_mean_s.mean() for name in "ab")
    assert summary["relative_to_reference"]["b"]["ttft_mean_s"][0] == pytest.approx(b / a - 1)
    streams = [
        pd.read_parquet(tmp_path / "cells" / f"{name}-1.parquet")[["arrived_at_s", "num_prompt_tokens"]]
        for name in "ab"
    ]
    pd.testing.assert_frame_equal(*streams)  # common random numbers


def test_workers_do_not_change_results(tmp_path):
    policies = ["+agent@policies.a=random", "+agent@policies.b=power_of_two", "reference=a"]
    for workers in (1, 2):
        evaluate(tiny_evaluation(tmp_path / str(workers), *policies, f"num_workers={workers}"))
    volatile = ("table.md", "cells/*.json", "config.yaml")
    assert files(tmp_path / "1", *volatile) == files(tmp_path / "2", *volatile)


def test_streams_that_share_requests_are_told(tmp_path, capsys):
    policies = ["+agent@policies.a=random", "reference=a"]
    evaluate(tiny_evaluation(tmp_path / "first", *policies, "workload.start=first"))
    assert "The streams of seeds 0 and 1 share 100% of their requests" in capsys.readouterr().out
    overlap = evaluate(tiny_evaluation(tmp_path / "random", *policies))["greatest_overlap"]
    ledgers = [pd.read_parquet(tmp_path / "random" / "cells" / f"a-{seed}.parquet") for seed in (0, 1)]
    shared = set(ledgers[0].num_prompt_tokens) & set(ledgers[1].num_prompt_tokens)
    assert overlap["frac_shared"] <= len(shared) / 39


def test_evaluation_goes_on_after_the_cells_that_are_there(tmp_path):
    config = tiny_evaluation(tmp_path, "+agent@policies.a=random", "reference=a")
    evaluate(config)
    before = files(tmp_path, "table.md")
    first, second = sorted((tmp_path / "cells").glob("*.parquet"))
    second.unlink()
    kept = first.stat().st_mtime_ns
    evaluate(config)
    assert first.stat().st_mtime_ns == kept
    after = files(tmp_path, "table.md")
    assert {name: data for name, data in before.items() if "cells" not in name} == {
        name: data for name, data in after.items() if "cells" not in name
    }


def test_unfinished_files_of_killed_processes_are_removed(tmp_path):
    left = tmp_path / "cells" / ".a-0.parquet.4999999.part"
    left.parent.mkdir()
    left.touch()
    evaluate(tiny_evaluation(tmp_path, "+agent@policies.a=random", "reference=a"))
    assert not left.exists()


def test_directory_of_another_world_is_refused(tmp_path):
    policies = ["+agent@policies.a=random", "reference=a"]
    evaluate(tiny_evaluation(tmp_path, *policies))
    with pytest.raises(
        ValueError, match=r"holds a run of another config \(workload.rate_per_s is 20 there and 21"
    ):
        evaluate(tiny_evaluation(tmp_path, *policies, "workload.rate_per_s=21"))
    (tmp_path / "config.yaml").write_text("{")
    with pytest.raises(ValueError, match=r"(?s)config.yaml: not a config .* delete"):
        evaluate(tiny_evaluation(tmp_path, *policies))


def test_policies_and_seeds_may_be_added(tmp_path):
    evaluate(tiny_evaluation(tmp_path, "+agent@policies.a=random", "reference=a"))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.parquet")}
    more = ["+agent@policies.a=random", "+agent@policies.b=round_robin", "reference=b", "warmup_s=0.2"]
    summary = evaluate(tiny_evaluation(tmp_path, *more, "seeds=[0,1,2]"))
    assert summary["seeds"] == [0, 1, 2]
    assert set(summary["policies"]) == {"a", "b"}
    assert all(path.stat().st_mtime_ns == at for path, at in made.items())


def test_a_policy_trained_anew_is_routed_anew(tmp_path, capsys):
    for alpha in (0.3, 3.0):
        trained = tmp_path / "trained"
        for path in trained.glob("*"):
            path.unlink()
        train(configured("train", trained, *TINY, "agent=linucb", f"agent.alpha={alpha}"))
        config = tiny_evaluation(
            tmp_path / "run", "+agent@policies.a=linucb", f"+trained.a={trained}", "reference=a"
        )
        evaluate(config)
    output = capsys.readouterr().out
    assert "a, seed 0: made of something else before; made anew" in output
    evaluate(config)
    assert "made anew" not in capsys.readouterr().out


def test_damaged_cell_is_named(tmp_path):
    config = tiny_evaluation(tmp_path, "+agent@policies.a=random", "reference=a")
    evaluate(config)
    path = tmp_path / "cells" / "a-0.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"a-0.parquet: not a whole cell .* delete it"):
        evaluate(config)


@pytest.mark.parametrize("every", [15, 1000])
@pytest.mark.parametrize("agent", ["lodestar", "linucb"])
def test_bandit_killed_within_or_between_episodes_ends_the_same(agent, every, tmp_path):
    overrides = [*TINY, f"agent={agent}", *TINY_TRAIN.get(agent, []), "total_timesteps=120"]
    overrides.append(f"checkpoint_every={every}")
    train(configured("train", tmp_path / "whole", *overrides))

    class KilledError(Exception):
        pass

    import agents.online

    original, saved = checkpoint.save, []

    def save_then_die(path, state):
        original(path, state)
        saved.append(path)
        if len(saved) in (2, 3):
            raise KilledError

    agents.online.checkpoint.save = save_then_die
    try:
        for _ in range(2):
            with pytest.raises(KilledError):
                train(configured("train", tmp_path / "killed", *overrides))
    finally:
        agents.online.checkpoint.save = original
    train(configured("train", tmp_path / "killed", *overrides))
    assert files(tmp_path / "whole", "progress.json", "*.png") == files(
        tmp_path / "killed", "progress.json", "*.png"
    )


def test_damaged_checkpoint_is_named(tmp_path):
    config = configured("train", tmp_path, *TINY, "agent=linucb")
    train(config)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"learner.npz: not a whole checkpoint .* delete it"):
        train(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+agent.epsilonn=1"], r"agent.epsilonn: .* takes no such key; did you mean epsilon"),
        (["agent.epsilon=often"], r"agent.epsilon: 'often' is not of type float"),
        (["cluster.instances.fast.num_block=3"], r"Could not override 'cluster.instances.fast.num_block'"),
        (["+cluster.instances.fast.num_block=3"], r"cluster: cluster group 'fast': unknown key 'num_block'"),
        (["env.max_instances=1"], r"env: the cluster has 2 instances and max_instances is 1"),
        (["sed=3"], r"Could not override 'sed'"),
        (["seed=first"], r"Error merging override seed=first"),
        (["seed=-1"], r"seed: -1 is negative"),
        (["total_timesteps=0"], r"total_timesteps: 0 must be at least 1"),
        (["checkpoint_every=0"], r"checkpoint_every: 0 must be at least 1"),
        (["agent=round_robin"], r"agents.heuristics.round_robin.RoundRobin has nothing to learn"),
        (["workload=mooncake"], r"ROUTEGYM_TRACES"),
    ],
)
def test_bad_config_is_named(overrides, message, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    base = TINY if "workload=mooncake" not in overrides else ["cluster=tiny"]
    with pytest.raises(Exception, match=message):
        train(configured("train", tmp_path / "run", *base, *overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reference=b"], r"reference: 'b' is none of the policies \(a\)"),
        (["seeds=[1,1]"], r"seeds: \[1, 1\] must be different"),
        (["seeds=[]"], r"seeds: \[\] must be different"),
        (["num_workers=0"], r"num_workers \(0\) must be at least 1"),
        (["+trained.b=nowhere"], r"trained.b: b is none of the policies"),
        (["+trained.a=nowhere"], r"trained.a: a learns nothing"),
        (["+agent@policies.ppo=maskable_ppo"], r"policies.ppo: it must be trained before"),
        (["+agent@policies.ppo=maskable_ppo", "+trained.ppo=nowhere"], r"nowhere.*train"),
        (["+agent@policies.b=linucb", "+trained.b=nowhere"], r"nowhere.* does not exist: train first"),
        (["warmup_s=1e6"], r"warmup_s is 1000000.0, but the last request arrives at"),
    ],
)
def test_bad_evaluation_is_named(overrides, message, tmp_path):
    with pytest.raises((ConfigError, ValueError, OSError), match=message):
        evaluate(tiny_evaluation(tmp_path, "+agent@policies.a=random", "reference=a", *overrides))


def start(*arguments):
    # What a shell runs in the background ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=CONF.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_in_training_leaves_a_run_that_ends_the_same(tmp_path):
    overrides = [*TINY, "agent=maskable_ppo", *TINY_TRAIN["maskable_ppo"]]
    overrides += ["total_timesteps=2048", "checkpoint_every=256"]
    train(configured("train", tmp_path / "whole", *overrides))
    stopped = tmp_path / "stopped"
    process = start("agents.train", *overrides, f"directory={stopped}", f"hydra.run.dir={tmp_path}/hydra")
    deadline = time.monotonic() + 120
    while not (stopped / "checkpoint.pt").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 0), errors  # 0: it had ended before the signal came
    if process.returncode:
        assert "stopped; the same command goes on" in errors
        assert "Traceback" not in errors
    train(configured("train", stopped, *overrides))
    assert files(tmp_path / "whole", "*.json", "*.png") == files(stopped, "*.json", "*.png")
    assert not list(stopped.glob(".*"))


@pytest.mark.parametrize(
    ("num_workers", "number"), [(1, signal.SIGINT), (2, signal.SIGINT), (1, signal.SIGTERM)]
)
def test_ctrl_c_in_evaluation_leaves_whole_cells(num_workers, number, tmp_path):
    overrides = [*TINY, "workload.num_generated=3000", "workload.num_requests=2000", "warmup_s=0.1"]
    overrides += ["+agent@policies.a=random", "+agent@policies.b=lodestar", "reference=a", "seeds=[0,1,2,3]"]
    overrides += [f"num_workers={num_workers}", "window_s=1"]
    stopped = tmp_path / "stopped"
    process = start("agents.evaluate", *overrides, f"directory={stopped}", f"hydra.run.dir={tmp_path}/hydra")
    deadline = time.monotonic() + 120
    while not list(stopped.glob("cells/*.parquet")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    said = errors.replace(NOTICE, "").strip()
    assert said == "routegym-evaluate: stopped; the same command goes on from what is done"
    assert len(list(stopped.glob("cells/*.parquet"))) < 8
    assert not (stopped / "results.parquet").exists()
    evaluate(configured("evaluate", stopped, *overrides))
    assert len(list(stopped.glob("cells/*.parquet"))) == 8
    assert not [path for path in stopped.rglob("*") if path.name.startswith(".")]


def test_sweep_goes_on_after_a_bad_job(tmp_path):
    overrides = [*TINY, "agent=linucb,random,thompson", f"hydra.sweep.dir={tmp_path}"]
    process = start("agents.train", "-m", *overrides)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "routegym-train: agent: agents.heuristics.random.Random has nothing to learn" in errors
    assert len(list(tmp_path.glob("*/learner.npz"))) == 2


def test_error_is_one_line_and_status_2(tmp_path):
    process = start("agents.train", *TINY, "+agent.epsilonn=1", f"hydra.run.dir={tmp_path}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert errors.startswith("routegym-train: agent.epsilonn: ")


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("agents.train", "routegym-train"),
        ("agents.evaluate", "routegym-evaluate"),
        ("agents.benchmark", "python -m agents.benchmark"),
        ("agents.benchmark.capacity", "python -m agents.benchmark.capacity"),
        ("agents.bound", "python -m agents.bound"),
    ],
)
def test_help(program, name):
    process = start(program, "--help")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert output.startswith(f"{name}: ")
    assert f"\n  {name} " in output  # an example
    assert "workload: " in output


def test_progress_json_is_the_learning_curve(tmp_path):
    train(configured("train", tmp_path, *TINY, "agent=linucb", "total_timesteps=80"))
    rows = json.loads((tmp_path / "progress.json").read_text())
    assert [row["step"] for row in rows] == [40, 80]
    assert all(row["ttft_mean_s"] > 0 for row in rows)
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
