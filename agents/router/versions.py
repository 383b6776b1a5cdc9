"""Where a router's trainer is told what to do, and where the versions of its policy lie."""

from __future__ import annotations

from pathlib import Path

SETTINGS = "trainer.json"


def version_path(directory: Path, number: int) -> Path:
    """Where a version lies."""
    return directory / f"{number:06d}"


def versions(directory: Path) -> list[int]:
    """Numbers of the versions that are there, ascending."""
    return sorted(int(path.name) for path in directory.glob("[0-9]" * 6) if path.is_dir())
