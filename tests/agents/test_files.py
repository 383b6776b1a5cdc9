import multiprocessing
import os
import pathlib

import pytest

from agents import files
from agents.files import remove_parts, write
from agents.rl.checkpoint import write_tensors


@pytest.fixture
def dead_pid():
    process = multiprocessing.get_context("spawn").Process()
    process.start()
    process.join()
    return process.pid


def test_only_what_dead_processes_left_is_removed(tmp_path, dead_pid):
    (tmp_path / "cells").mkdir()
    left = [
        tmp_path / f".config.yaml.{dead_pid}.part",
        tmp_path / "cells" / f".a-0.parquet.{dead_pid}.part",
        tmp_path / f".a.{10**30}.part",
    ]
    kept = [
        tmp_path / f".config.yaml.{os.getpid()}.part",
        tmp_path / "cells" / f".a-0.parquet.{os.getppid()}.part",
        tmp_path / ".somebody-elses.part",
        tmp_path / "whole.part",
    ]
    for path in (*left, *kept):
        path.touch()
    bundle = tmp_path / f".bundle.{dead_pid}.part"  # some that are written so are folders
    bundle.mkdir()
    (bundle / "policy.onnx").touch()
    left.append(bundle)
    remove_parts(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_process_of_another_user_is_alive(tmp_path, monkeypatch):
    def not_ours(pid, signal):
        raise PermissionError

    path = tmp_path / ".a.json.1.part"
    path.touch()
    monkeypatch.setattr(files.os, "kill", not_ours)
    remove_parts(tmp_path)
    assert path.exists()


@pytest.mark.parametrize(
    "write_to",
    [
        lambda path: write(path, lambda temporary: temporary.write_bytes(b"whole")),
        lambda path: write_tensors(path, {"a": 1}),
    ],
    ids=["write", "write_tensors"],
)
def test_bytes_are_on_disk_before_they_take_the_name(write_to, tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, pathlib.Path.replace

    def recorded_fsync(descriptor):
        fsync(descriptor)
        events.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    def recorded_replace(path, target):
        events.append(("replace", path.stat().st_ino, path.stat().st_size))
        assert path.name == f".{target.name}.{os.getpid()}.part"
        return replace(path, target)

    monkeypatch.setattr(files.os, "fsync", recorded_fsync)
    monkeypatch.setattr(pathlib.Path, "replace", recorded_replace)
    write_to(tmp_path / "file")
    status = (tmp_path / "file").stat()
    assert events == [(name, status.st_ino, status.st_size) for name in ("fsync", "replace")]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
