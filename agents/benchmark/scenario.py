"""The scenarios of RouteBench: ``conf/experiment/bench``, one YAML each.

    for scenario in select(["equal", "prefix_*", "azure@95"]):
        config = scenario.config("test")  # of ``routegym-evaluate``, but for its policies

A scenario is an experiment for ``routegym-train`` and ``routegym-evaluate``: cluster, world, workload, knobs
of the environment, and under ``scenario`` what ``conf/scenario/bench.yaml`` explains. ``scenario.split`` says
whose requests come: those of training, tuning and testing have nothing in common, whatever the seeds, since
what is generated is drawn from another seed, and what is replayed lies in another window of the trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import conf
from agents.config import register
from conf.build import ConfigError

FOLDER = Path(conf.__file__).parent / "experiment" / "bench"
COMPARED = ("tune", "test")
"""Splits on whose streams policies are compared; training draws streams of its own."""

register()


class Scenario(NamedTuple):
    """One scenario at one load."""

    name: str
    load: int
    """Percent of the fleet's capacity."""

    def __str__(self) -> str:
        """As a user writes it, and what its folder is called."""
        return f"{self.name}@{self.load}"

    def fits(self, pattern: str) -> bool:
        """Whether it is meant by a name or pattern; one without ``@LOAD`` means all loads."""
        return fnmatchcase(str(self), pattern if "@" in pattern else f"{pattern}@*")

    def config(self, split: str, settings: Mapping[str, Any] | DictConfig | None = None) -> DictConfig:
        """The config of ``routegym-evaluate`` with this scenario's seeds and warm-up, but without policies.

        Args:
            split: One of ``COMPARED``.
            settings: What is to be otherwise, such as ``{"workload": {"num_requests": 500}}``.

        Raises:
            ConfigError: The scenario has no rate for this load, the split is none that is compared on, or a
                setting is none that there is, or the scenario's split or load.
        """
        if split not in COMPARED:
            raise ConfigError(f"split: {split!r} is none of {', '.join(COMPARED)}")
        if {"split", "load"} & set((settings or {}).get("scenario", {})):  # it would go by this one's name
            raise ConfigError(
                "settings.scenario: choose a load by scenarios=NAME@LOAD, and streams by split="
            )
        config = _composed(
            "evaluate",
            [
                f"experiment=bench/{self.name}",
                f"scenario.load={self.load}",
                f"scenario.split={split}",
                f"directory={self}",
            ],
        )
        if str(self.load) not in config.scenario.rates_per_s:
            there = ", ".join(config.scenario.rates_per_s)
            raise ConfigError(f"scenarios: {self.name} has no load {self.load}; it has {there}")
        config.seeds = list(config.scenario.seeds[split])
        config.warmup_s = config.scenario.warmup_s
        try:
            config.merge_with(settings or {})
        except OmegaConfBaseException as error:
            raise ConfigError(f"settings: {str(error).splitlines()[0]}") from error
        return config


def names() -> list[str]:
    """The scenarios that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def suite(name: str) -> list[Scenario]:
    """A scenario at the loads that belong to the suite."""
    loads = _composed("evaluate", [f"experiment=bench/{name}"]).scenario.loads
    return [Scenario(name, int(load)) for load in loads]


def select(patterns: Any) -> list[Scenario]:
    """The scenarios that are asked for, in the order of their names.

    Args:
        patterns: One or several, as in a config: ``all``, or names and patterns (``prefix_*``), each with
            ``@LOAD`` for one load.

    Raises:
        ConfigError: There is no pattern, or one fits no scenario; names those that there are.
    """
    wanted = patterns_of(patterns)
    if not wanted:
        raise ConfigError(
            "scenarios: there is none; write all, or NAME, NAME@LOAD or patterns such as prefix_*"
        )
    chosen: dict[Scenario, None] = {}
    for pattern in wanted:
        name, _, load = pattern.partition("@")
        fitting = [each for each in names() if fnmatchcase(each, name)]
        if not fitting or (load and not load.isdecimal()):
            raise ConfigError(
                f"scenarios: {pattern!r} fits none of {', '.join(names())}; write NAME, a pattern such as"
                " prefix_*, or NAME@LOAD with a load in percent"
            )
        for each in fitting:
            chosen |= dict.fromkeys([Scenario(each, int(load))] if load else suite(each))
    return sorted(chosen)


def patterns_of(asked: Any) -> list[str]:
    """The patterns of a setting: ``all``, one or several."""
    if asked == "all":
        return ["*"]
    return [asked] if isinstance(asked, str) else [str(each) for each in asked or ()]


def _composed(program: str, overrides: list[str]) -> DictConfig:
    """The config of a program, in whichever way Hydra is running."""
    if GlobalHydra.instance().is_initialized():
        config = compose(program, overrides)
    else:
        with initialize_config_module("conf", version_base="1.3"):
            config = compose(program, overrides)
    return config
