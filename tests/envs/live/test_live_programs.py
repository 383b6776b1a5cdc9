"""The programs over stand-ins for vLLM: runs that are taken up again, and servers that are others by then."""

import json

import pytest
from hydra import compose, initialize_config_module

import agents.online
from agents import checkpoint
from agents.config import register
from agents.evaluate import evaluate
from agents.train import train
from conf.build import ConfigError

from .fake_vllm import FakeVllm
from .leaks import nothing_left

register()
SMALL = [
    "workload=generated",
    "workload.num_generated=200",
    "workload.rate_per_s=200",
    "workload.prompt_median=100",
    "workload.prompt_min=16",
    "workload.prompt_max=500",
    "workload.output_median=4",
    "workload.output_max=10",
]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.fixture
def servers(tmp_path):
    """Two, and the file that names them."""
    with FakeVllm() as one, FakeVllm() as other:
        path = tmp_path / "endpoints.json"
        path.write_text(json.dumps({"a": one.url, "b": other.url}))
        yield path


def configured(program, directory, path, *overrides):
    live = ["cluster=live", f"cluster.endpoints={path}", *SMALL, *overrides, f"directory={directory}"]
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, live)


def test_training_that_was_killed_goes_on_with_what_was_learned(servers, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    save, saved = checkpoint.save, []

    def save_then_die(path, state):
        save(path, state)
        saved.append(len(state["instances"]))
        if len(saved) == 2:
            raise KilledError

    overrides = ["agent=linucb", "workload.num_requests=60", "checkpoint_every=20"]
    monkeypatch.setattr(agents.online.checkpoint, "save", save_then_die)
    with pytest.raises(KilledError):
        train(configured("train", tmp_path / "run", servers, *overrides))
    directory = train(configured("train", tmp_path / "run", servers, *overrides))
    progress = json.loads((directory / "progress.json").read_text())
    assert [row["step"] for row in progress] == [60]  # a whole episode
    assert saved == [20, 40, 20, 40, 60, 0]


def test_deep_agents_train_on_one_environment_only(servers, tmp_path):
    overrides = ["agent=maskable_ppo", "agent.num_envs=2", "agent.n_steps=16", "agent.batch_size=16"]
    with pytest.raises(ConfigError, match=r"agent.num_envs: 2 .* set agent.num_envs=1"):
        train(configured("train", tmp_path / "run", servers, *overrides))
    assert not (tmp_path / "run").exists()
    overrides[1] = "agent.num_envs=1"
    overrides += ["total_timesteps=32", "workload.num_requests=20"]
    train(configured("train", tmp_path / "run", servers, *overrides))


def test_cells_are_made_anew_where_the_file_names_other_servers(servers, tmp_path):
    overrides = [
        "+agent@policies.a=round_robin",
        "reference=a",
        "seeds=[0]",
        "num_workers=1",
        "warmup_s=0",
        "window_s=0.1",
        "workload.num_requests=20",
    ]
    summary = evaluate(configured("evaluate", tmp_path / "run", servers, *overrides))
    assert summary["cluster_counters"]["a"]["num_served"] == 20
    config = configured("evaluate", tmp_path / "run", servers, *overrides)
    ledger = tmp_path / "run" / "cells" / "a-0.parquet"
    made = ledger.stat().st_mtime_ns
    evaluate(config)
    assert ledger.stat().st_mtime_ns == made
    servers.write_text(json.dumps({"a": json.loads(servers.read_text())["a"]}))
    evaluate(config)
    assert json.loads(ledger.with_suffix(".json").read_text())["num_instances"] == 1


def test_streams_at_once_are_refused(servers, tmp_path):
    overrides = ["+agent@policies.a=round_robin", "reference=a", "seeds=[0,1]", "num_workers=2"]
    with pytest.raises(ConfigError, match=r"num_workers: 2 streams at once .* set num_workers=1"):
        evaluate(configured("evaluate", tmp_path / "run", servers, *overrides))
