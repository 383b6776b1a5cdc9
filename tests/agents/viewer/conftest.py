"""An evaluation in a bad world: of two instances one is slowed down, the other dies and comes back."""

import pytest
from hydra import compose, initialize_config_module

from agents.config import register
from agents.evaluate import evaluate
from envs.world import Schedule

EVENTS = [
    {"at_s": 1.0, "instance": 0, "what": "slow", "factor": 3.0},
    {"at_s": 2.0, "instance": 1, "what": "fail"},
    {"at_s": 2.5, "instance": 1, "what": "restart"},
    {"at_s": 5.0, "instance": 0, "what": "slow", "factor": 1.0},
]
SETTINGS = [
    "cluster=tiny",
    "workload.num_generated=80",
    "workload.rate_per_s=12",
    "workload.max_model_len=2000",
    "workload.prompt_median=600",
    "workload.prompt_min=1",
    "workload.prompt_max=1500",
    "workload.output_median=40",
    "workload.output_max=200",
    "workload.slo_ttft_s=0.2",
    "world=quiet",
    "world.cold_start_s=1",
    "env.max_retries=1",
    "env.num_routers=2",
    "+agent@policies.by_load=vllm_dp",
    "+agent@policies.learns=linucb",
    "reference=by_load",
    "seeds=[0,3]",
    "num_workers=1",
    "warmup_s=0",
    "window_s=1",
    "record=true",
    "name=bad_world",
]


def configured(program, *overrides):
    register()
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, list(overrides))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Its directory; nothing may write there."""
    folder = tmp_path_factory.mktemp("evaluation")
    Schedule(EVENTS).save(folder / "schedule.json")
    schedule = f"world.schedule={folder / 'schedule.json'}"
    evaluate(configured("evaluate", *SETTINGS, schedule, f"directory={folder / 'run'}"))
    return folder / "run"
