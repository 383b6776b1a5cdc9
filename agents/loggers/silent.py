"""No logger: the run's own files are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class Silent:
    """Sends nothing anywhere."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_table(self, name: str, table: pd.DataFrame) -> None:
        """Do nothing."""

    def log_summary(self, figures: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_files(self, kind: str, paths: Sequence[Path]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""
