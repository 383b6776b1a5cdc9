"""The name that a file bears until it is whole: written beside it, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"
"""Ending of files not yet whole; those that a killed process left are removed by ``agents.files``."""


def part_of(path: Path) -> Path:
    """Where this process writes what will be ``path``: hidden, with the process's id."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART}")
