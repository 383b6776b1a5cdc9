"""What a tuner may change: settings of an agent, and the values that each may take.

A config says it as a mapping that mirrors the agent's, with ranges and choices in place of values::

    imbalance: {low: 1.0, high: 64.0, log: true}
    training:
      num_epochs: {low: 1, high: 40}  # whole numbers, since both are
      target: {options: [seconds, log]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.build import ConfigError, build

Settings = dict[str, Any]
"""Name of a setting, with dots where it is nested -> value."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``: whole ones where both are, on a logarithmic scale with ``log``."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not self.low < self.high or (self.log and not self.low > 0):
            raise ValueError(f"low ({self.low}) must be below high ({self.high}), and above 0 with log")

    def __contains__(self, value: object) -> bool:
        """Whether a value may be tried."""
        is_number = isinstance(value, int if self.is_whole else int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Choice:
    """One of these values: numbers, words, true, false or null."""

    options: list[Any]

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose, or is no plain value."""
        if len(self.options) < 2 or any(isinstance(option, list | dict) for option in self.options):
            raise ValueError(f"options are {self.options}, they must be plain values, at least two")

    def __contains__(self, value: object) -> bool:
        """Whether a value may be tried."""
        return value in self.options


Space = dict[str, Range | Choice]
"""Name of a setting, with dots where it is nested -> what it may be."""


def space_of(config: DictConfig) -> Space:
    """The space that ``config.space`` describes for ``config.agent``.

    Raises:
        ConfigError: naming a setting that the agent does not have, or whose value in ``config.agent``, which
            is tried first, is not in its range.
    """
    node = OmegaConf.to_container(config.space, resolve=True) if config.space else None
    if not isinstance(node, dict) or not node:
        raise ConfigError(
            "space: empty; give ranges such as +space.imbalance.low=1 +space.imbalance.high=64, or write"
            " conf/space/<agent>.yaml"
        )
    space = dict(_leaves(node, ""))
    default = defaults(config, space)
    for name, values in space.items():
        if default[name] not in values:
            raise ConfigError(f"space.{name}: the agent's own value, {default[name]!r}, is not in {values}")
    return space


def defaults(config: DictConfig, space: Space) -> Settings:
    """The settings as they are in ``config.agent``. Raises ``ConfigError`` for one that is not there."""
    found = {}
    for name in space:
        parent, _, last = name.rpartition(".")
        held = OmegaConf.select(config.agent, parent) if parent else config.agent
        if not isinstance(held, DictConfig) or last not in held:
            raise ConfigError(f"space.{name}: {config.agent._target_} has no such setting in its config")
        found[name] = held[last]
    return found


def with_settings(agent: DictConfig, settings: Settings) -> DictConfig:
    """A copy of an agent's config with these settings."""
    copied = OmegaConf.create(OmegaConf.to_container(agent, resolve=True))
    assert isinstance(copied, DictConfig)
    for name, value in settings.items():
        OmegaConf.update(copied, name, value)
    return copied


def _leaves(node: Mapping[Any, Any], path: str) -> list[tuple[str, Range | Choice]]:
    found = []
    for key, held in node.items():
        name = f"{path}{key}"
        if not isinstance(held, Mapping):
            raise ConfigError(f"space.{name}: {held!r} is no range; give low and high, or options")
        if "low" in held or "high" in held or "options" in held:
            kind = Choice if "options" in held else Range
            found.append((name, build({"_target_": f"{__name__}.{kind.__name__}", **held}, f"space.{name}")))
        else:
            found += _leaves(held, f"{name}.")
    return found
