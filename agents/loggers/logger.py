"""The contract of a logger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Logger(Protocol):
    """Takes a training run's figures as they come."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take figures as of ``step`` decisions."""
        ...

    def finish(self) -> None:
        """The run has ended; called also where it failed or was stopped."""
        ...
