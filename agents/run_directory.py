"""A run's directory: it belongs to one config, so that a run can be taken up again and never mixed up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from agents.files import read_json, remove_parts, write, write_json

CONFIG = "config.yaml"
FINISHED = "finished.json"
NOT_RESULTS = "wandb"
"""Folder of a logger's files, which may change after the run."""
MAX_NAME = 120
"""Characters of a folder's name that tell what is in it; file systems allow 255 bytes."""


def claim(config: DictConfig, compared: Iterable[str], *, keep: bool = False) -> Path:
    """Return ``config.directory``, made if need be and marked as this config's in ``config.yaml``.

    Args:
        config: A program's whole config.
        compared: Top-level keys that must be as they were where the directory already holds a run.
        keep: Leave a config that is there, and fits, as it is.

    Raises:
        ValueError: where the directory holds a run of another config; names the first key that differs.
    """
    directory = Path(config.directory)
    wanted = plain(config)
    del wanted["directory"]
    remove_parts(directory)
    path = directory / CONFIG
    if path.exists():
        try:
            held = OmegaConf.to_container(OmegaConf.load(path))
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a config ({error}); delete {directory} to run anew") from error
        for key in compared:
            there = held.get(key) if isinstance(held, dict) else None
            difference = _first_difference(there, wanted[key], f"{key}.")
            if difference:
                raise ValueError(
                    f"{directory} holds a run of another config ({difference}):"
                    " give this one another name=, or delete that directory"
                )
    if not (keep and path.exists()):
        write(path, lambda temporary: OmegaConf.save(OmegaConf.create(wanted), temporary))
    return directory


def plain(config: DictConfig) -> dict[str, Any]:
    """A program's whole config as plain values, all filled in."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def finish(directory: Path, key: str) -> None:
    """Mark a run as finished: what it holds now is its whole result, made of what ``key`` names."""
    write_json(directory / FINISHED, {"key": key, "files": _results(directory)})


def is_finished(directory: Path, key: str) -> bool:
    """Whether the directory holds the whole result of a run of this key: each file is whole or not there."""
    path = directory / FINISHED
    if not path.exists():
        return False
    held = read_json(path)
    return bool(held["key"] == key and set(held["files"]) <= set(_results(directory)))


def files_of(directory: Path) -> list[Path]:
    """The files that lie in a run's directory, but for those in folders: the result without its details."""
    return sorted(path for path in directory.iterdir() if path.is_file() and path.name != FINISHED)


def _results(directory: Path) -> list[str]:
    """Paths of the files of a run's result, in it."""
    names = (str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in names if name != FINISHED and not name.startswith(NOT_RESULTS))


def folder_name(overrides: str) -> str:
    """A folder for a run of a sweep, named by what its command line says of it, the same in every sweep.

    Args:
        overrides: ``key=value,key=value``, as Hydra has it, in the order of the keys.
    """
    readable = re.sub(r"[^A-Za-z0-9_.,=+@-]+", "_", overrides)[:MAX_NAME].strip("_,")
    return f"{readable}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def _first_difference(held: Any, wanted: Any, path: str) -> str:
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in held if key not in wanted)]:
            if key not in held or key not in wanted:
                return f"{path}{key} is only in {'this one' if key in wanted else 'that one'}"
            difference = _first_difference(held[key], wanted[key], f"{path}{key}.")
            if difference:
                return difference
        return ""
    return "" if held == wanted else f"{path.rstrip('.')} is {held!r} there and {wanted!r} here"
