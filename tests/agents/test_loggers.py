import json
import socket
import sys
from time import monotonic, sleep

import pandas as pd
import pytest
from omegaconf import OmegaConf

from agents.evaluate import evaluate
from agents.loggers.silent import Silent
from agents.loggers.weights_and_biases import WeightsAndBiases
from agents.run_directory import folder_name
from agents.train import train
from conf.build import ConfigError, build
from tests.agents.test_programs import TINY, configured, tiny_evaluation

RULES = ["+agent@policies.random=random", "reference=random"]
CONFIG = {"_target_": "agents.loggers.weights_and_biases.WeightsAndBiases", "project": "p", "mode": "offline"}


@pytest.fixture
def connections(monkeypatch):
    """A port to which wandb and its helper process are told to send everything; nobody should call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, address)
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("WANDB_SILENT", "true")
        yield server


def test_offline_run_is_kept_in_the_run_directory(tmp_path, monkeypatch, connections):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where wandb keeps what it is yet to send
    directory = tmp_path / "run"
    config = {"agent": {"alpha": 0.625}, "seeds": [3, 4]}
    logger = build(OmegaConf.create(CONFIG), "logger", run_name="a/name", directory=directory, config=config)
    result = directory / "learner.npz"
    result.write_bytes(b"what was learned")
    logger.log(100, {"ttft_mean_s": 0.5})
    logger.log(200, {"ttft_mean_s": 0.25})
    logger.log_table("results", pd.DataFrame({"policy": ["random"], "seed": [0], "ttft_mean_s": [0.75]}))
    logger.log_summary({"random": {"ttft_p99_s": 0.875}})
    logger.log_files("policy", [result])
    logger.finish()
    (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    missing = {b"a/name", b"ttft_mean_s", b"0.25", b"0.625", b"0.875", b"a-name-policy", b"learner.npz"}
    deadline = monotonic() + 20.0
    while missing and monotonic() < deadline:  # the helper process may flush just after finish()
        missing = {text for text in missing if text not in log.read_bytes()}
        sleep(0.02)
    assert not missing
    (table,) = log.parent.rglob("*.table.json")
    expected = {"columns": ["policy", "seed", "ttft_mean_s"], "data": [["random", 0, 0.75]]}
    assert json.loads(table.read_text()) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"run", "home"}
    with pytest.raises(BlockingIOError):
        connections.accept()


def test_a_training_run_and_an_evaluation_are_kept(tmp_path, monkeypatch, connections):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    train(
        configured("train", tmp_path / "trained", *TINY, "agent=linucb", "total_timesteps=40", "logger=wandb")
    )
    evaluate(tiny_evaluation(tmp_path / "evaluated", "logger=wandb", *RULES))
    told = {
        "trained": {b"linucb", b"ttft_mean_s", b"learner.npz"},
        "evaluated": {b"ttft_mean_s", b"results.parquet"},
    }
    for name, of in told.items():
        kept = tmp_path / name
        (log,) = kept.glob("wandb/offline-run-*/run-*.wandb")
        deadline = monotonic() + 20.0
        while not all(text in log.read_bytes() for text in of) and monotonic() < deadline:
            sleep(0.02)
        assert all(text in log.read_bytes() for text in of)
    with pytest.raises(BlockingIOError):
        connections.accept()


def test_files_of_a_run_in_a_sweep_have_a_name_that_is_not_too_long(tmp_path, monkeypatch, connections):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = folder_name(",".join(f"policies.linucb.setting_{number}=0.5" for number in range(9)))
    directory = tmp_path / folder
    logger = WeightsAndBiases(f"sweep/{folder}", directory)
    result = directory / "results.parquet"
    result.write_bytes(b"")
    logger.log_files("results", [result])
    logger.finish()
    assert list(directory.glob("wandb/offline-run-*"))


def test_without_wandb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'routegym\[wandb\]', or use logger=none"):
        WeightsAndBiases("name", tmp_path)
    with pytest.raises(ConfigError, match=r"^logger: logger=wandb needs the package wandb"):
        build(CONFIG, "logger", run_name="name", directory=tmp_path)


def test_silent_logger_takes_everything():
    logger = Silent()
    logger.log(1, {"ttft_mean_s": 0.5})
    logger.log_table("results", pd.DataFrame())
    logger.log_summary({"ttft_mean_s": 0.5})
    logger.log_files("policy", [])
    logger.finish()
