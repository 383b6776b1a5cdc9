"""Constants that were tuned per rule and scenario: a JSON file, which a sweep writes and the benchmark reads.

    {"equal@80": {"cache_aware": {"imbalance": 12.0, "cache_threshold": 0.5},
                  "lodestar": {"training.learning_rate": 0.001}},
     "fast_slow": {"cache_aware": {"imbalance": 4.0}}}

Scenario -> policy -> setting -> value. A scenario without a load stands for all its loads that have no entry
of their own for the policy. Policies are named as in the benchmark's ``policies``, settings as in that
policy's YAML, nested ones with dots. Beside its scenarios the file may hold ``about``: how it was made.

There may be several files, such as one of constants for the mean and one for the tail. Each has a word, that
the names of what it tunes end in: ``{"tuned": ..., "tuned_p99": ...}``.
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

WORD = "tuned"
"""Of a file that is given alone."""
ABOUT = "about"

Constants = Mapping[str, Mapping[str, Mapping[str, Any]]]


def files_of(tuned: str | Mapping[str, str] | None) -> dict[str, Constants]:
    """Word -> what its file holds, of the setting ``tuned``: a file, or word -> file, or None for none.

    Raises:
        ConfigError: It is none of these, or as by ``load``.
    """
    if tuned is None:
        return {}
    files = {WORD: tuned} if isinstance(tuned, str) else tuned
    if not isinstance(files, Mapping) or not all(isinstance(path, str) for path in files.values()):
        raise ConfigError(f"tuned: {tuned} is neither a file nor WORD -> file, such as {{tuned: tuned.json}}")
    return {str(word): load(path) for word, path in files.items()}


def listed_as(policy: str, word: str = WORD) -> str:
    """The name under which a tuned policy is listed, beside the same with its default constants."""
    return f"{policy}_{word}"


def load(path: str | Path) -> Constants:
    """Read a file of tuned constants. Raises ``ConfigError`` naming what is wrong with it."""
    if not Path(path).is_file():
        raise ConfigError(f"tuned: there is no file {path}")
    try:
        read = read_json(Path(path), "mend it, or gather it anew by python -m agents.tuning.tuned")
    except ValueError as error:
        raise ConfigError(f"tuned: {error}") from error
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


def with_tuned(
    policies: Mapping[str, Any], files: Mapping[str, Constants], scenario: Scenario
) -> dict[str, Any]:
    """The policies, each that was tuned in this scenario also with those constants, as ``<name>_<word>``.

    Args:
        policies: Name -> plain node of the config.
        files: What ``files_of`` read.
        scenario: Where they are to route.

    Raises:
        ConfigError: A setting is none of the policy's; names both. Or two policies would have one name.
    """
    result: dict[str, Any] = {}
    for name, node in policies.items():
        result[name] = node
        for word, constants in files.items():
            settings = constants_of(constants, scenario, name)
            if settings is None:
                continue
            listed = listed_as(name, word)
            if listed in policies or listed in result:
                raise ConfigError(f"policies.{listed}: the tuned {name} has this name too; choose another")
            result[listed] = _with_settings(name, node, settings, scenario)
    return result


def _with_settings(name: str, node: Any, settings: Mapping[str, Any], scenario: Scenario) -> Any:
    """A policy's node with settings laid over it."""
    tuned = OmegaConf.create(node)
    OmegaConf.set_struct(tuned, True)
    for setting, value in settings.items():
        try:
            OmegaConf.update(tuned, setting, value)
        except OmegaConfBaseException as error:
            raise ConfigError(f"tuned: {scenario}: {name} has no setting {setting!r}") from error
    return OmegaConf.to_container(tuned)
