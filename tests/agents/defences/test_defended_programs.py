"""Defended policies in the programs: built from config, trained inside, told where that cannot be."""

import pytest
from hydra import compose, initialize_config_module

from agents.cells import build_policy
from agents.config import register
from agents.defences.defence import innermost
from agents.evaluate import evaluate
from agents.rl.sb3_policy import Sb3Policy
from agents.train import train
from conf.build import ConfigError

TINY = [
    "cluster=tiny",
    "workload.num_generated=200",
    "workload.num_requests=40",
    "workload.rate_per_s=20",
    "workload.max_model_len=2000",
    "workload.prompt_median=300",
    "workload.prompt_min=1",
    "workload.prompt_max=1500",
    "workload.output_median=20",
    "workload.output_max=100",
]
DEFENDED = ["+agent@policies.a=defended_trust_counters", "reference=a"]
register()


def configured(program, directory, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, [*TINY, *overrides, f"directory={directory}"])


def test_what_was_trained_goes_to_the_policy_inside(tmp_path):
    train(configured("train", tmp_path / "bandit", "agent=linucb"))
    short = ["agent.n_steps=16", "agent.num_envs=2", "agent.batch_size=16", "total_timesteps=32"]
    train(configured("train", tmp_path / "ppo", "agent=maskable_ppo", *short))
    config = configured(
        "evaluate",
        tmp_path / "evaluation",
        *DEFENDED,
        "agent@policies.a.policy=linucb",
        f"+trained.a={tmp_path / 'bandit'}",
        "+agent@policies.b=defended_median",
        "agent@policies.b.policy=defended_clip",
        "agent@policies.b.policy.policy=maskable_ppo",
        f"+trained.b={tmp_path / 'ppo'}",
        "seeds=[0,1]",
        "num_workers=1",
        "warmup_s=0.1",
        "window_s=1",
    )
    assert innermost(build_policy(config, "a")).state()["model"]["num_updates"] > 0
    assert isinstance(innermost(build_policy(config, "b")), Sb3Policy)
    summary = evaluate(config)
    assert summary["counters"]["a"].keys() >= {"distrusted", "forgotten_decisions"}
    assert summary["counters"]["b"].keys() == {"smoothed", "clipped"}


def test_a_learner_is_trained_inside_its_defence_too(tmp_path):
    defended = ["agent=defended_trust_counters", "agent@agent.policy=linucb"]
    train(configured("train", tmp_path / "run", *defended))
    config = configured(
        "evaluate", tmp_path, *DEFENDED, "agent@policies.a.policy=linucb", f"+trained.a={tmp_path / 'run'}"
    )
    assert innermost(build_policy(config, "a")).state()["model"]["num_updates"] > 0


def test_what_cannot_be_is_told(tmp_path):
    def policy(*overrides):
        return build_policy(configured("evaluate", tmp_path, *DEFENDED, *overrides), "a")

    with pytest.raises(ConfigError, match=r"policies\.a: it must be trained before"):
        policy("agent@policies.a.policy=maskable_ppo")
    with pytest.raises(ConfigError, match=r"trained\.a: a learns nothing"):
        policy(f"+trained.a={tmp_path}")
    with pytest.raises(ConfigError, match="has nothing to learn"):
        train(configured("train", tmp_path, "agent=defended_median"))
    with pytest.raises(ConfigError, match="a defence cannot train MaskablePpoAgent"):
        train(configured("train", tmp_path, "agent=defended_median", "agent@agent.policy=maskable_ppo"))
