"""Constants that were tuned per rule and scenario: a JSON file, which a sweep writes and the benchmark reads.

    {"equal@80": {"cache_aware": {"imbalance": 12.0, "cache_threshold": 0.5},
                  "lodestar": {"training.learning_rate": 0.001}},
     "fast_slow": {"cache_aware": {"imbalance": 4.0}}}

Scenario -> policy -> setting -> value. A scenario without a load stands for all its loads that have no entry
of their own for the policy. Policies are named as in the benchmark's ``policies``, settings as in that
policy's YAML, nested ones with dots. Beside its scenarios the file may hold ``about``: how it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.benchmark.scenario import Scenario, names
from agents.files import read_json
from conf.build import ConfigError

SUFFIX = "_tuned"
"""Of the name under which a tuned policy is listed, beside the same with its default constants."""
ABOUT = "about"

Constants = Mapping[str, Mapping[str, Mapping[str, Any]]]


def load(path: str | Path) -> Constants:
    """Read a file of tuned constants. Raises ``ConfigError`` naming what is wrong with it."""
    if not Path(path).is_file():
        raise ConfigError(f"tuned: there is no file {path}")
    read = read_json(Path(path))
    if not isinstance(read, dict):
        raise ConfigError(f"tuned: {path} holds no object: scenario -> policy -> setting -> value")
    constants: dict[str, dict[str, dict[str, Any]]] = {
        scenario: policies for scenario, policies in read.items() if scenario != ABOUT
    }
    for scenario, policies in constants.items():
        name, at, load = scenario.partition("@")
        if name not in names() or (at and not load.isdecimal()):
            raise ConfigError(
                f"tuned: {path}: {scenario!r} is none of the scenarios ({', '.join(names())}), nor one of"
                " them with @LOAD in percent"
            )
        if not isinstance(policies, dict) or not all(isinstance(each, dict) for each in policies.values()):
            raise ConfigError(f"tuned: {path}: {scenario} must hold policy -> setting -> value")
    return constants


def constants_of(constants: Constants, scenario: Scenario, policy: str) -> Mapping[str, Any] | None:
    """What a policy's settings were tuned to in a scenario; None where they were not."""
    for key in (str(scenario), scenario.name):
        if policy in constants.get(key, {}):
            return constants[key][policy]
    return None


def with_tuned(policies: Mapping[str, Any], constants: Constants, scenario: Scenario) -> dict[str, Any]:
    """The policies, each that was tuned in this scenario also with those constants, as ``<name>_tuned``.

    Args:
        policies: Name -> plain node of the config.
        constants: What ``load`` read.
        scenario: Where they are to route.

    Raises:
        ConfigError: A setting is none of the policy's; names both.
    """
    result = dict(policies)
    for name, node in policies.items():
        settings = constants_of(constants, scenario, name)
        if settings is None:
            continue
        if name + SUFFIX in policies:
            raise ConfigError(f"policies.{name + SUFFIX}: the tuned {name} has this name; choose another")
        tuned = OmegaConf.create(node)
        OmegaConf.set_struct(tuned, True)
        for setting, value in settings.items():
            try:
                OmegaConf.update(tuned, setting, value)
            except OmegaConfBaseException as error:
                raise ConfigError(f"tuned: {scenario}: {name} has no setting {setting!r}") from error
        result[name + SUFFIX] = OmegaConf.to_container(tuned)
    return result
