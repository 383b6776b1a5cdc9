"""``python -m agents.export`` as a user runs it, for every kind of agent."""

import json
import subprocess
import sys

import numpy as np
import pytest

from agents.evaluate import evaluate
from agents.export import bundle
from agents.export.__main__ import export
from agents.export.runtime import SCHEMA
from agents.train import train
from conf.build import ConfigError
from tests.agents.test_programs import TINY, TINY_TRAIN, configured, files, tiny_evaluation

TINY_LINUCB = ["total_timesteps=60"]
FILES = {"policy.onnx", "policy.npz", "policy.py", "schema.json", "card.md", "plugs"}


def exported(directory, *overrides, given=()):
    """Export in a tiny form; ``given`` are the keys that the user set besides these."""
    config = configured("export", directory, *overrides, "num_observations=60")
    return export(config, {override.split("=")[0] for override in overrides} | set(given))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of every kind that is trained."""
    directory = tmp_path_factory.mktemp("runs")
    for agent in ("linucb", "lodestar", "maskable_ppo", "dqn", "qr_dqn", "imitation"):
        overrides = TINY_TRAIN.get(agent, TINY_LINUCB)
        train(configured("train", directory / agent, *TINY, f"agent={agent}", *overrides))
    return directory


@pytest.mark.parametrize("agent", ["linucb", "lodestar", "maskable_ppo", "dqn", "qr_dqn", "imitation"])
def test_what_was_trained_is_exported_with_its_world(agent, trained, tmp_path):
    directory = exported(tmp_path / "b", f"run={trained / agent}")
    assert {path.name for path in directory.iterdir()} == FILES
    schema = json.loads((directory / SCHEMA).read_text())
    assert schema["name"] == agent
    assert schema["fallback"] == "least_in_flight"
    assert schema["range_check"] == ("chosen" if agent == "lodestar" else None)
    card = (directory / "card.md").read_text()
    assert "| policy.onnx, by onnxruntime | 60 " in card
    assert "It was not attacked" in card
    assert "rate_per_s: 20" in card  # of the run's workload, not of this program's


def test_what_was_imitated_is_trained_on_and_exported(trained, tmp_path):
    overrides = [*TINY_TRAIN["maskable_ppo"], f"agent.warm_start={trained / 'imitation'}"]
    train(configured("train", tmp_path / "run", *TINY, "agent=maskable_ppo", *overrides))
    config = tiny_evaluation(
        tmp_path / "evaluation",
        "+agent@policies.warm=maskable_ppo",
        f"+trained.warm={tmp_path / 'run'}",
        "+agent@policies.imitated=imitation",
        f"+trained.imitated={trained / 'imitation'}",
        "reference=warm",
    )
    assert set(evaluate(config)["policies"]) == {"warm", "imitated"}
    directory = exported(tmp_path / "b", f"run={tmp_path / 'run'}")
    assert {path.name for path in directory.iterdir()} == FILES


def test_a_rule_needs_no_run(tmp_path):
    directory = exported(tmp_path / "b", *TINY, "agent=session_hash", "max_instances=8")
    schema = json.loads((directory / SCHEMA).read_text())
    assert (schema["name"], schema["fallback"], schema["limits"]["max_instances"]) == (
        "session_hash",
        None,
        8,
    )


def test_the_same_again_is_the_same_bytes(trained, tmp_path):
    one = exported(tmp_path / "one", f"run={trained / 'maskable_ppo'}")
    other = exported(tmp_path / "other", f"run={trained / 'maskable_ppo'}")
    assert files(one) == files(other)


def test_a_bundle_routes_like_what_it_was_made_of(trained, tmp_path):
    exported(tmp_path / "b", f"run={trained / 'maskable_ppo'}")
    config = tiny_evaluation(
        tmp_path / "evaluation",
        "+agent@policies.ppo=maskable_ppo",
        f"+trained.ppo={trained / 'maskable_ppo'}",
        "+agent@policies.exported=bundle",
        f"policies.exported.directory={tmp_path / 'b'}",
        "reference=ppo",
    )
    policies = evaluate(config)["policies"]
    assert policies["exported"] == policies["ppo"]


def test_the_card_tells_of_results_and_weaknesses(trained, tmp_path):
    tiny = ["+agent@policies.ppo=maskable_ppo", f"+trained.ppo={trained / 'maskable_ppo'}", "reference=ppo"]
    evaluate(tiny_evaluation(tmp_path / "evaluation", *tiny))
    estimate = {"value": 0.5, "low": 0.25, "high": 1.0}
    worst = {"attack": "spoof-search@ppo", "ttft_mean_s": estimate, "is_behind": True}
    row = {
        "victim": "ppo",
        "clean": estimate,
        "worst_feature": worst,
        "worst_world": {**worst, "is_behind": False},
        "break_even": {"spoof": {"load_only": 0.25}, "world": {"load_only": None}},
    }
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"headline": [row], "scenario": {"fleet": "4 x H100"}}))
    overrides = [f"run={trained / 'maskable_ppo'}", f"results={tmp_path / 'evaluation'}", f"report={report}"]
    card = (exported(tmp_path / "b", *overrides, "policy_name=ppo") / "card.md").read_text()
    assert "| ppo    | " in card
    assert "(spoof-search@ppo): 0.500 [0.250, 1.000] s; behind round robin there." in card
    assert "spoof: from 25% of the threat's bounds on worse than" in card
    assert "world: never clearly worse than" in card
    with pytest.raises(ValueError, match=r"compares ppo, and not 'maskable_ppo'; give policy_name="):
        exported(tmp_path / "c", *overrides)


def test_another_fallback_may_be_given(trained, tmp_path):
    directory = exported(
        tmp_path / "b", f"run={trained / 'lodestar'}", "agent@fallback=llmd_token_load", given=["fallback"]
    )
    assert json.loads((directory / SCHEMA).read_text())["fallback"] == "llmd_token_load"


def test_one_that_is_there_is_replaced_and_nothing_else(trained, tmp_path):
    exported(tmp_path / "b", *TINY, "agent=random")
    exported(tmp_path / "b", *TINY, "agent=round_robin")
    assert bundle.load(tmp_path / "b").name == "round_robin"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="holds something else than a bundle"):
        exported(tmp_path / "mine", *TINY, "agent=random")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_one_that_decides_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    loaded = bundle.load

    def tampered(directory):
        policy = loaded(directory)
        act = policy.act
        policy.act = lambda observation: act(observation)._replace(
            scores=np.where(observation["mask"], act(observation).scores + 1e-3, -np.inf)
        )
        return policy

    monkeypatch.setattr(bundle, "load", tampered)
    with pytest.raises(ValueError, match=r"policy\.npz, by NumPy decides otherwise than the policy"):
        exported(tmp_path / "b", f"run={trained / 'maskable_ppo'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["agent=lodestar"], "it has learned nothing; train it and give run="),
        (["agent=maskable_ppo"], "it must be trained before; train it and give run="),
        (["run=nowhere"], "nowhere holds no config.yaml; give the directory of a training run"),
        (["run=nowhere", "agent=random"], "the run brings its own; leave out agent= or run="),
        (["agent=thompson"], "it has learned nothing"),
        (["agent=defended_median"], "Median cannot be exported: it has no method export"),
        (["agent=random", "num_observations=0"], "num_observations: 0 must be at least 1"),
        (["agent=random", "range_margin=-1"], "range_margin: -1.0 must be a finite number from 0"),
    ],
)
def test_what_cannot_be_exported_is_told(overrides, reason, tmp_path):
    config = configured("export", tmp_path / "b", *TINY, "num_observations=20", *overrides)
    with pytest.raises((ConfigError, ValueError), match=reason):
        export(config, {override.split("=")[0] for override in overrides})
    assert not (tmp_path / "b").exists()


def test_the_command(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "agents.export", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    said = run(*TINY, "agent=llmd_affinity", "num_observations=50", f"directory={tmp_path / 'b'}")
    assert said.returncode == 0, said.stderr
    assert "policy.npz, by NumPy: 50 decisions, 0 different" in said.stdout
    assert (tmp_path / "b" / "card.md").exists()
    said = run("run=x", "agent=random", f"directory={tmp_path / 'c'}")
    assert said.returncode == 2
    assert said.stderr.strip() == "agents.export: agent: the run brings its own; leave out agent= or run="
    assert "python -m agents.export: a policy as a folder" in run("--help").stdout
