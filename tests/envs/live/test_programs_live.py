"""The programs over real servers: a bandit learns online on them, policies are compared on them."""

import json

import pandas as pd
import pytest
from hydra import compose, initialize_config_module

from agents.config import register
from agents.evaluate import evaluate
from agents.fidelity import compare
from agents.train import train

pytestmark = pytest.mark.live
register()
SMALL = [
    "workload=generated",
    "workload.num_generated=1000",
    "workload.start=random",
    "workload.num_prefix_groups=8",
    "workload.hash_block_tokens=64",
    "workload.prompt_median=300",
    "workload.prompt_min=16",
    "workload.prompt_max=1500",
    "workload.output_median=6",
    "workload.output_min=1",
    "workload.output_max=20",
]
KINDS = {  # kind -> the servers' places, arguments
    "modelled": (slice(0, 2), ["workload.rate_per_s=40", "workload.block_size=16"]),
    "cpu": (slice(2, 4), ["workload.rate_per_s=8", "workload.block_size=32"]),
}


def configured(program, directory, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, [*overrides, f"directory={directory}"])


@pytest.fixture(params=KINDS)
def of_kind(request, live_servers, tmp_path):
    """Arguments that name two servers of a kind and a workload they can bear."""
    place, arguments = KINDS[request.param]
    names = list(live_servers.endpoints())[place]
    path = tmp_path / "endpoints.json"
    path.write_text(json.dumps({name: live_servers.endpoints()[name] for name in names}))
    return path, [*SMALL, *arguments]


def test_lodestar_learns_on_servers_and_policies_are_compared_there(of_kind, tmp_path):
    path, arguments = of_kind
    live = ["cluster=live", f"cluster.endpoints={path}", *arguments]
    trained = train(
        configured(
            "train",
            tmp_path / "train",
            *live,
            "agent=lodestar",
            "agent.first_training=100",
            "agent.retrain_every=50",
            "agent.training.num_epochs=2",
            "workload.num_requests=300",
        )
    )
    progress = json.loads((trained / "progress.json").read_text())
    assert progress[-1]["step"] == 300
    assert progress[-1]["fallback_cold"] < 300  # it has learned and decided by what it learned

    summary = evaluate(
        configured(
            "evaluate",
            tmp_path / "run",
            "experiment=live",
            *live[1:],
            f"+trained.lodestar={trained}",
            "workload.num_requests=60",
            "window_s=1",
        )
    )
    assert len(summary["policies"]) == 4
    assert summary["cluster_counters"]["lodestar"]["num_served"] == 60
    for cell in sorted((tmp_path / "run" / "cells").glob("*.parquet")):
        ledger = pd.read_parquet(cell)
        assert len(ledger) == 60
        assert (ledger["failure"] == "").all()
        counters = json.loads(cell.with_suffix(".json").read_text())["cluster_counters"]
        assert counters["num_submitted"] == counters["num_served"] == 60
        assert counters["num_failed"] == counters["num_timed_out"] == 0


def test_fidelity_runs(live_servers, tmp_path):
    path = tmp_path / "endpoints.json"
    endpoints = live_servers.endpoints()
    path.write_text(json.dumps({name: endpoints[name] for name in list(endpoints)[:2]}))
    config = configured(
        "fidelity",
        tmp_path / "run",
        *SMALL,
        f"live.endpoints={path}",
        "workload.rate_per_s=20",
        "workload.num_requests=60",
        "+agent@policies.round_robin=round_robin",
        "+agent@policies.random=random",
        "seeds=[0,1]",
    )
    report = compare(config)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "fidelity.json",
        "fidelity.html",
        "fidelity.png",
    }
    for name in ("round_robin", "random"):  # these decide alike in both worlds
        figures = report["policies"][name]["own_decisions"]
        for latency in ("ttft_s", "e2e_s"):
            assert abs(figures["latencies"][latency]["mean"]["relative"]) < 0.1
        assert abs(figures["prefix_hits"]["relative"]) < 0.02
