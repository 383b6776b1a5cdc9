import pathlib

import pytest
import torch

from agents.rl.checkpoint import NAME, load_checkpoint, save_checkpoint

RUN = {"seed": 1, "gamma": 0.9}
WEIGHTS = torch.arange(1000.0)


def save(directory, **run):
    save_checkpoint(directory, RUN | run, 7, {"weights": WEIGHTS})


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path / "new" / "directory")
    content = load_checkpoint(tmp_path / "new" / "directory", {"seed": 1, "not compared": 3})
    assert (content["run"], content["num_timesteps"]) == (RUN, 7)
    assert torch.equal(content["state"]["weights"], WEIGHTS)


def test_none_where_there_is_none(tmp_path):
    assert load_checkpoint(tmp_path, {}) is None


def flipped(data):
    middle = len(data) // 2
    return bytes([*data[:middle], data[middle] ^ 1, *data[middle + 1 :]])


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: data[: len(data) // 2], flipped, lambda _: b"hi"],
    ids=["empty", "cut", "cut in half", "flipped bit", "text"],
)
def test_a_damaged_checkpoint_is_named_with_the_mend(tmp_path, damage):
    save(tmp_path)
    path = tmp_path / NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged.* delete it"):
        load_checkpoint(tmp_path, {})


def test_a_file_of_torch_without_a_digest_is_no_checkpoint(tmp_path):
    torch.save({"run": {}}, tmp_path / NAME)
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(tmp_path, {})


def test_another_run_is_refused_by_name(tmp_path):
    save(tmp_path)
    with pytest.raises(ValueError, match=r"gamma = 0\.9, this one has 0\.8"):
        load_checkpoint(tmp_path, {"seed": 1, "gamma": 0.8})


def test_a_crash_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    def crash(*_):
        raise OSError("the power failed")

    save(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", crash)
        with pytest.raises(OSError, match="power"):
            save(tmp_path, seed=2)
    assert load_checkpoint(tmp_path, {})["run"]["seed"] == 1
    save(tmp_path, seed=3)
    assert load_checkpoint(tmp_path, {})["run"]["seed"] == 3
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
