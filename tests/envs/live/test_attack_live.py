"""A weakness that was found in emulation shows on real servers: the same lies, the same direction."""

import json

import pytest
from hydra import compose, initialize_config_module

from adversary.config import register
from adversary.live import compare
from adversary.trace import AttackTrace
from agents.config import register as register_agents

pytestmark = pytest.mark.live
register()
register_agents()


def test_an_instance_that_claims_to_be_idle_harms_users_on_servers_too(live_servers, tmp_path):
    names = list(live_servers.endpoints())[:2]
    path = tmp_path / "endpoints.json"
    path.write_text(json.dumps({name: live_servers.endpoints()[name] for name in names}))
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(
            "live_attack",
            [
                "experiment=robustness/live",
                f"directory={tmp_path / 'run'}",
                f"live.endpoints={path}",
                "seeds=[1]",
                "duration_s=3",
                "attackers.search.num_evaluations=20",
                "workload.rate_per_s=30",
                "workload.num_requests=120",
                "workload.prompt_median=1000",
                "workload.prompt_max=3000",
                "workload.output_median=6",
                "workload.output_max=20",
            ],
        )
    found = compare(config)
    change = {row["where"]: row["change"]["value"] for row in found["rows"]}
    assert change["emulated"] > 0.2
    assert change["live"] > 0.1
    assert json.loads((tmp_path / "run" / "live.json").read_text()) == found
    trace = AttackTrace.load(tmp_path / "run" / "attack-1.parquet")  # within bounds and budget
    assert len(trace.values) > 60
