"""A run's directory: it belongs to one config, so that a run can be taken up again and never mixed up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agents.files import remove_parts, write

CONFIG = "config.yaml"


def claim(config: DictConfig, irrelevant: Iterable[str]) -> Path:
    """Return ``config.directory``, made if need be and marked as this config's.

    Args:
        config: A program's whole config.
        irrelevant: Top-level keys that do not touch the result, such as how many processes work on it.

    Raises:
        ValueError: where the directory holds a run of another config; names the first key that differs.
    """
    directory = Path(config.directory)
    wanted = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(wanted, dict)
    for key in ("directory", *irrelevant):
        wanted.pop(key, None)
    remove_parts(directory)
    path = directory / CONFIG
    if not path.exists():
        write(path, lambda temporary: OmegaConf.save(OmegaConf.create(wanted), temporary))
        return directory
    held = OmegaConf.to_container(OmegaConf.load(path))
    difference = _first_difference(held, wanted, "")
    if difference:
        raise ValueError(
            f"{directory} holds a run of another config ({difference}):"
            " give this one another name=, or delete that directory"
        )
    return directory


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
