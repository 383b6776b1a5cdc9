"""From a program's config to its logger."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from agents.loggers.logger import Logger
from agents.run_directory import plain
from conf.build import build


def begin_log(config: DictConfig, directory: Path) -> Logger:
    """The logger that the group ``logger`` describes, told the run's name and its whole config."""
    name = f"{config.name}/{directory.name}"
    logger: Logger = build(config.logger, "logger", run_name=name, directory=directory, config=plain(config))
    return logger
