"""The programs in worlds where things go wrong: failures and retries are counted, schedules are files."""

import json

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from agents.config import register
from agents.evaluate import evaluate
from agents.train import train
from conf.build import ConfigError
from envs.world import Schedule

TINY = [
    "cluster=tiny",
    "workload.num_generated=80",
    "workload.rate_per_s=10",
    "workload.max_model_len=2000",
    "workload.prompt_median=300",
    "workload.prompt_min=1",
    "workload.prompt_max=1500",
    "workload.output_median=20",
    "workload.output_max=100",
]
POLICIES = ["+agent@policies.least=least_in_flight", "+agent@policies.learns=linucb", "reference=least"]
FAILING = ["world=failing", "world.mean_time_to_failure_s=2", "world.downtime_s=1", "world.cold_start_s=1"]
register()


def configured(program, directory, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, [*TINY, *overrides, f"directory={directory}"])


def evaluated(directory, *overrides):
    """Summary, table and, by policy, the ledger of seed 0."""
    run = ["seeds=[0,1]", "num_workers=1", "warmup_s=0.1", "window_s=1", *POLICIES]
    summary = evaluate(configured("evaluate", directory, *run, *overrides))
    ledgers = {
        name: pd.read_parquet(directory / "cells" / f"{name}-0.parquet") for name in summary["policies"]
    }
    return summary, (directory / "table.md").read_text(), ledgers


def test_failed_requests_are_counted_and_shown(tmp_path):
    summary, table, ledgers = evaluated(tmp_path, *FAILING)
    for name, values in summary["policies"].items():
        assert values["num_requests"][0] > 70
        assert 0 < values["num_failed"][0] < values["num_requests"][0]
        assert values["frac_slo_met"][0] <= 1 - values["num_failed"][0] / values["num_requests"][0]
        assert len(ledgers[name]) == 80
        assert not ledgers[name]["is_retried"].any()
    header = table.splitlines()[0]
    assert header.rstrip(" |").endswith("failed")
    assert "num_retries" not in summary["policies"]["least"]
    shares = [values["frac_slo_met"][0] for values in summary["policies"].values()]
    assert shares == sorted(shares, reverse=True)
    assert "the order is by SLO met" in table


def test_where_nobody_is_served_there_are_results_all_the_same(tmp_path):
    summary, table, _ = evaluated(tmp_path, "world=quiet", "world.absent=[0,1]")
    assert {values["num_failed"][0] for values in summary["policies"].values()} == {
        summary["policies"]["least"]["num_requests"][0]
    }
    assert "nan" in table
    assert (tmp_path / "ttft_cdf.png").exists()


def test_retries_are_counted_and_save_requests(tmp_path):
    without, _, _ = evaluated(tmp_path / "without", *FAILING)
    summary, table, ledgers = evaluated(tmp_path / "with", *FAILING, "env.max_retries=2", "env.num_routers=2")
    assert "| failed | retries |" in table.splitlines()[0]
    for name, values in summary["policies"].items():
        assert values["num_retries"][0] > 0
        assert values["num_failed"][0] < without["policies"][name]["num_failed"][0]
        assert values["num_requests"] == without["policies"][name]["num_requests"]
        ledger = ledgers[name]
        assert (~ledger["is_retried"]).sum() == ledger["arrived_at_s"].nunique() == 80
        assert ledger["is_retried"].sum() == len(ledger) - 80 > 0
    again, _, _ = evaluated(tmp_path / "again", *FAILING, "env.max_retries=2", "env.num_routers=2")
    assert json.dumps(again) == json.dumps(summary)


def test_a_quiet_world_shows_no_failures(tmp_path):
    summary, table, ledgers = evaluated(tmp_path / "none")
    assert "failed" not in table
    assert "num_retries" not in summary["policies"]["least"]
    quiet, _, same = evaluated(tmp_path / "quiet", "world=quiet")
    assert quiet.pop("world") != summary.pop("world")  # keys of what the configs say
    assert json.dumps(quiet) == json.dumps(summary)
    for name, ledger in ledgers.items():
        pd.testing.assert_frame_equal(ledger, same[name])


def test_a_schedule_is_part_of_what_a_result_was_made_of(tmp_path, capsys):
    path = tmp_path / "attack.json"
    world = ["world=quiet", f"world.schedule={path}"]
    outcomes = []
    for factor in (1, 50, 50):
        Schedule([{"at_s": 0, "instance": 0, "what": "slow", "factor": factor}]).save(path)
        capsys.readouterr()
        outcomes.append(evaluated(tmp_path / "run", *world)[0]["policies"]["least"]["tpot_mean_s"][0])
        assert ("made anew" in capsys.readouterr().out) == (len(outcomes) == 2)
    assert outcomes[1] == outcomes[2] > 2 * outcomes[0]


def test_training_where_instances_fail(tmp_path):
    config = configured("train", tmp_path, *FAILING, "env.max_retries=1", "env.num_routers=2", "agent=linucb")
    assert (train(config) / "learner.npz").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["world=quiet", "world.frac_scrapes_lost=2"],
            r"world: frac_scrapes_lost is 2, it must lie in \[0, 1\]",
        ),
        (["world=quiet", "world.network_delay_s=fast"], "world.network_delay_s: 'fast' is not of type"),
        (["world=quiet", "+world.latency_s=1"], "world.latency_s: .* takes no such key"),
        (["world=quiet", "world.schedule=none.json"], r"world: schedule none\.json: cannot be read as JSON"),
        (["world=quiet", "world.absent=[5]"], "cluster: absent names instance 5, the cluster has 2"),
        (["world=quiet", "world.network_delay_s=[0.1]"], "cluster: network_delay_s has 1 values"),
        (
            ["world=quiet", "+cluster.world._target_=envs.world.World"],
            "world: this cluster takes none, or brings its own",
        ),
        (["env.num_routers=0"], "env: num_routers is 0, it must be a whole number"),
    ],
)
def test_bad_worlds_are_named(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        evaluated(tmp_path, *overrides)


def test_a_config_without_a_world_says_so():
    config = configured("evaluate", "somewhere", *POLICIES)
    assert config.world is None
    assert "world" not in OmegaConf.to_container(config.cluster)
