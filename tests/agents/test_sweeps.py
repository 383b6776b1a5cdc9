"""Sweeps: runs lie apart, side by side or on a cluster; one that was killed goes on after what is whole."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from agents.run_directory import FINISHED, finish, folder_name, is_finished
from agents.train import train
from tests.agents.test_programs import TINY, configured, files

ROOT = Path(__file__).parents[2]
LONG = ["agent=linucb", "checkpoint_every=200"]


@contextmanager
def sweep(directory, *overrides):
    """A sweep of training runs in a process group of its own, of which nothing is left."""
    command = [sys.executable, "-m", "agents.train", "-m", *TINY, *overrides]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def runs(directory):
    """Number of decisions -> directory of the run."""
    found = (directory / "runs" / "train").glob("*total_timesteps=*")
    return {int(path.name.partition("total_timesteps=")[2].partition(",")[0]): path for path in found}


def expect_trained_as_alone(found, tmp_path):
    for total, directory in found.items():
        alone = tmp_path / f"alone-{total}"
        train(configured("train", alone, *TINY, *LONG, f"total_timesteps={total}"))
        # The curve may lack the point of an episode that ended as the run was killed; the result is whole.
        assert files(alone, "progress.json", "*.png") == files(directory, "progress.json", "*.png")


@pytest.mark.parametrize("name", ["train", "evaluate", "tune", "distill"])
def test_a_sweep_over_scenarios_may_set_their_load(name):
    """Hydra composes a sweep's settings once without what is swept over, such as the experiment."""
    settings = ["scenario.split=tune", "scenario.load=60"]
    with initialize_config_module("conf", version_base="1.3"):
        compose(name, settings)
        config = compose(name, [*settings, "experiment=bench/equal"])
    assert config.workload.rate_per_s == config.scenario.rates_per_s["60"]


def test_a_killed_sweep_goes_on_after_what_is_finished(tmp_path):
    steps = "total_timesteps=40,6000"
    with sweep(tmp_path, *LONG, steps, "hydra/launcher=local") as process:
        deadline = time.monotonic() + 120
        while not (
            len(found := runs(tmp_path)) == 2
            and (found[40] / FINISHED).exists()
            and (found[6000] / "learner.npz").exists()
        ):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (found[6000] / FINISHED).exists()
    made_at = (found[40] / "learner.npz").stat().st_mtime_ns
    with sweep(tmp_path, *LONG, steps) as process:  # by another launcher
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count("trained before: ") == 1
    assert (found[40] / "learner.npz").stat().st_mtime_ns == made_at
    expect_trained_as_alone(found, tmp_path)


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_settings_of_launchers_are_known_to_them(launcher):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True)
        instantiate(config.hydra.launcher)


@pytest.mark.sweeps
@pytest.mark.parametrize(
    "launcher",
    [["submitit_local"], ["ray_cluster", "hydra.launcher.ray.init.address=local"]],
    ids=["slurm", "ray"],
)
def test_a_cluster_trains_as_one_process_does(launcher, tmp_path):
    chosen = [f"hydra/launcher={launcher[0]}", *launcher[1:]]
    with sweep(tmp_path, *LONG, "total_timesteps=40,80", *chosen) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert set(runs(tmp_path)) == {40, 80}
    expect_trained_as_alone(runs(tmp_path), tmp_path)


def test_a_finished_run_is_one_whose_files_and_key_are_there(tmp_path):
    (tmp_path / "cells").mkdir()
    for name in ("a.json", "cells/b.parquet"):
        (tmp_path / name).write_text("")
    assert not is_finished(tmp_path, "key")
    finish(tmp_path, "key")
    assert is_finished(tmp_path, "key")
    assert not is_finished(tmp_path, "another")
    (tmp_path / "table.md").write_text("what came later does not matter")
    assert is_finished(tmp_path, "key")
    (tmp_path / "cells" / "b.parquet").unlink()
    assert not is_finished(tmp_path, "key")


def test_folders_of_runs_are_readable_apart_and_fit_file_systems():
    assert folder_name("agent=linucb,seed=1").startswith("agent=linucb,seed=1-")
    assert folder_name("experiment=bench/equal").startswith("experiment=bench_equal-")
    names = {folder_name(f"seeds=[{','.join('9' * count)}]") for count in range(1, 400)}
    assert len(names) == 399
    assert max(map(len, names)) < 255
