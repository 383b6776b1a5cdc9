"""Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

MAX_NAME = 128
"""Characters of an artifact's name; wandb takes no more."""


class WeightsAndBiases:
    """Logs to Weights & Biases, by default offline: no network and no account are needed.

    ``wandb sync`` sends an offline run later; files that it is to send must still be where they were.
    Raises ``ValueError`` where wandb is not installed.

    Args:
        run_name: How the run is listed.
        directory: Of the run's files, in which its own folder ``wandb`` is made.
        config: The program's whole config, as plain values.
        project: What the run is listed under.
        mode: Whether it is sent while it runs.
    """

    def __init__(
        self,
        run_name: str,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        project: str = "routegym",
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                "logger=wandb needs the package wandb: pip install 'routegym[wandb]', or use logger=none"
            ) from error
        directory.mkdir(parents=True, exist_ok=True)
        self._wandb, self._name = wandb, re.sub(r"[^A-Za-z0-9_.-]+", "-", run_name)
        self._run = wandb.init(
            project=project, name=run_name, dir=str(directory), mode=mode, config=dict(config or {})
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures under their names."""
        self._run.log(dict(figures), step=step)

    def log_table(self, name: str, table: pd.DataFrame) -> None:
        """Log a table that can be sorted, filtered and plotted there."""
        self._run.log({name: self._wandb.Table(dataframe=table.astype(object))})

    def log_summary(self, figures: Mapping[str, Any]) -> None:
        """Put figures where runs are compared with each other."""
        self._run.summary.update(dict(figures))

    def log_files(self, kind: str, paths: Sequence[Path]) -> None:
        """Log an artifact of this type, which holds the files."""
        name = f"{self._name}-{kind}"[-MAX_NAME:]  # the end tells a sweep's runs apart
        artifact = self._wandb.Artifact(name, type=kind)
        for path in paths:
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Close the run."""
        self._run.finish()
