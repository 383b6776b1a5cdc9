"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal


class WeightsAndBiases:
    """Logs to Weights & Biases, by default offline: no network and no account are needed.

    ``wandb sync`` sends an offline run later. Raises ``ValueError`` where wandb is not installed.
    """

    def __init__(
        self,
        run_name: str,
        directory: Path,
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
        self._run = wandb.init(project=project, name=run_name, dir=str(directory), mode=mode)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures under their names."""
        self._run.log(dict(figures), step=step)

    def finish(self) -> None:
        """Close the run."""
        self._run.finish()
