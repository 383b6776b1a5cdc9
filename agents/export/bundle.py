"""A policy's bundle: what its files are called, and how it is read (``agents.export.writing`` writes it)."""

from __future__ import annotations

from pathlib import Path

from agents.export import runtime
from agents.export.runtime import BundleError, BundlePolicy
from envs.observation import SCHEMA_HASH

MODEL, CODE, CARD = "policy.onnx", "policy.py", "card.md"
PLUGS = "plugs"
"""Folder of ``agents.plugs``, where its files import each other as neighbours."""


def load(directory: str | Path | None) -> BundlePolicy:
    """The policy of a bundle, as ``conf/agent/bundle.yaml`` names it. Raises ``BundleError``."""
    if directory is None:
        raise BundleError("directory is null: give the folder of a bundle; python -m agents.export makes one")
    return runtime.load(directory, SCHEMA_HASH)
