"""What a result was made of, as plain values: one whose key still fits is not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from agents.export.runtime import SCHEMA
from conf.build import build


def world_of(config: DictConfig) -> dict[str, Any]:
    """All that the episodes of any policy follow from, but for their seed: the fleet and its requests.

    Files that the config names count by what they hold.
    """
    world = {
        name: OmegaConf.to_container(config[name], resolve=True) for name in ("env", "cluster", "workload")
    }
    trace = getattr(build(config.workload, "workload"), "trace", None)
    if config.world is not None:
        world["world"] = repr(build(config.world, "world"))  # with what its schedule's file holds
    if "endpoints" in config.cluster:  # the same file may come to name other servers
        world["instances"] = [asdict(traits) for traits in build(config.cluster, "cluster").traits]
    world["trace"] = digest(*(getattr(trace, field.name) for field in fields(trace))) if trace else ""
    return world


def made_of(config: DictConfig) -> dict[str, dict[str, Any]]:
    """Policy -> all that its episodes follow from, but for their seed: world, requests, policy, training."""
    world = world_of(config)
    made = {}
    for name, node in config.policies.items():
        policy = OmegaConf.to_container(node, resolve=True)
        folder = Path(config.trained[name]) if name in config.trained else None
        checkpoints = (
            sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".pt")) if folder else []
        )
        made[str(name)] = {
            **world,
            "policy": policy,
            "files": [digest(path.read_bytes()) for path in _files_in(policy)],
            "trained": [digest(path.read_bytes()) for path in checkpoints],
        }
    return made


def _files_in(node: Any) -> list[Path]:
    """The files that a policy's settings name."""
    if isinstance(node, dict | list):
        values = node.values() if isinstance(node, dict) else node
        return [path for value in values for path in _files_in(value)]
    if not isinstance(node, str):
        return []
    path = Path(node)
    return [each for each in (path, path / SCHEMA) if each.is_file()]  # a bundle's schema has its files' sums


def key_of(values: Mapping[str, Any]) -> str:
    """The key of what was made of these plain values, in whatever order they stand."""
    return digest(json.dumps(values, sort_keys=True))


def digest(*values: Any) -> str:
    """A name of arrays and plain values."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()
