"""The contract of a logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd


class Logger(Protocol):
    """Takes what a run does and finds, as it comes."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take points of curves: figures as of ``step``, which never falls."""
        ...

    def log_table(self, name: str, table: pd.DataFrame) -> None:
        """Take a table, under its name."""
        ...

    def log_summary(self, figures: Mapping[str, Any]) -> None:
        """Take what the run comes to: plain values, nested by name."""
        ...

    def log_files(self, kind: str, paths: Sequence[Path]) -> None:
        """Take files that are a result of this kind, such as ``policy``; they must stay as they are."""
        ...

    def finish(self) -> None:
        """The run has ended; called also where it failed or was stopped."""
        ...
