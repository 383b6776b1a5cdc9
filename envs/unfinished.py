"""The name that a file bears until it is whole: written beside it, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"
"""Ending of files not yet whole; those that a killed process left are removed by ``agents.files``."""


def part_of(path: Path) -> Path:
    """Where this process writes what will be ``path``: hidden, with the process's id."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which becomes ``path`` once the block ends well, and else goes."""
    part = part_of(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
