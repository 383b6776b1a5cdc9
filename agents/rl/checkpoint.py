"""Checkpoints of a training run: written whole or not at all, and refused where they do not fit.

A file is what ``torch.save`` writes, followed by its SHA-256: torch itself does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents.files import write

NAME = "checkpoint.pt"
_DIGEST_BYTES = 32


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file by tensors and plain values, so that at any instant a whole one lies there."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getbuffer()

    def write_to(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(data)
            file.write(hashlib.sha256(data).digest())

    write(path, write_to)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what ``write_tensors`` wrote. Raises ``ValueError`` where it is not whole."""
    data = path.read_bytes()
    data, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError(f"{path} is damaged, or none of our files: its SHA-256 is not that at its end")
    return dict(torch.load(io.BytesIO(data), weights_only=True))


def save_checkpoint(directory: Path, run: Mapping[str, Any], num_timesteps: int, state: Any) -> None:
    """Replace the directory's checkpoint.

    Args:
        directory: where the training run writes.
        run: what must not change between the run and its resumption, in plain values.
        num_timesteps: how far the run has come.
        state: tensors and plain values.
    """
    write_tensors(directory / NAME, {"run": dict(run), "num_timesteps": num_timesteps, "state": state})


def load_checkpoint(directory: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The directory's checkpoint, None if there is none.

    Args:
        directory: where the training run writes.
        run: what the checkpoint's ``run`` must agree with, name by name; names that either lacks are ignored.

    Raises:
        ValueError: naming the file, what is wrong with it, and the mend.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        content = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error}: restore it from a copy, or delete it to train from the start") from error
    for name, value in run.items():
        if name in content["run"] and content["run"][name] != value:
            raise ValueError(
                f"{path} comes from a run with {name} = {content['run'][name]}, this one has {value}:"
                f" set {name} back, or train in another directory"
            )
    return content
