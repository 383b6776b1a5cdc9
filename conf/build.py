"""From a config node to the object it describes, strictly.

A node is a mapping with ``_target_``, the import path of a class or function, and its keyword arguments.
What ``hydra.utils.instantiate`` would pass on, or let fail deep inside, is refused here by name: a key the
target does not take, a value of another type than its annotation says, a missing argument. (Hydra's own
would also turn dataclasses nested in a node into configs.)
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf


class ConfigError(ValueError):
    """A config that does not fit what it describes; the message names the key, the value and the mend."""


def build(node: Any, path: str, **given: Any) -> Any:
    """Return the object that ``node`` describes.

    Args:
        node: A config node; nodes nested in it are built first.
        path: Its place in the config, for messages, e.g. ``agent``.
        given: Arguments that the program supplies where the target takes them and the node does not.
    """
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path}: there is no _target_, the import path of what to build")
    return _built(node, path, given)


def _built(value: Any, path: str, given: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        built = {
            str(key): _built(child, f"{path}.{key}", {}) for key, child in value.items() if key != "_target_"
        }
        return _call(str(value["_target_"]), built, path, given) if "_target_" in value else built
    if isinstance(value, list | tuple):
        return [_built(child, f"{path}[{index}]", {}) for index, child in enumerate(value)]
    return value


def _call(target: str, arguments: dict[str, Any], path: str, given: Mapping[str, Any]) -> Any:
    try:
        function = get_object(target)
    except Exception as error:
        raise ConfigError(f"{path}._target_: cannot import {target!r}: {error}") from error
    parameters = inspect.signature(function).parameters
    is_plain = inspect.isclass(function) and not dataclasses.is_dataclass(function)
    # A dataclass's own hints: its __init__ names them as strings, those of a base as that one's module does.
    hints = typing.get_type_hints(function.__init__ if is_plain else function)
    for key, value in arguments.items():
        if key not in parameters:
            near = get_close_matches(key, parameters, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(parameters) or 'none'}"
            raise ConfigError(f"{path}.{key}: {target} takes no such key; {hint}")
        if key in hints and not _fits(value, hints[key]):
            wanted = hints[key].__name__ if inspect.isclass(hints[key]) else hints[key]
            raise ConfigError(f"{path}.{key}: {value!r} is not of type {wanted}")
    arguments = {**{key: value for key, value in given.items() if key in parameters}, **arguments}
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise ConfigError(f"{path}.{key}: missing; {target} needs it")
    try:
        return function(**arguments)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a built value may be passed for an annotation; what cannot be told is let through."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if hint is None or hint is type(None):
        return value is None
    if value is None and (origin is not None or inspect.isclass(hint)):
        return hint in (Any, object)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if origin is not None and inspect.isclass(origin):
        if issubclass(origin, Mapping):
            return isinstance(value, Mapping) and all(_fits(child, parts[1]) for child in value.values())
        if issubclass(origin, tuple):
            return isinstance(value, list | tuple)
        if issubclass(origin, Sequence):
            return isinstance(value, list | tuple) and all(_fits(child, parts[0]) for child in value)
    if (
        inspect.isclass(hint)
        and hint is not Any
        and isinstance(value, bool | int | float | str | list | dict)
    ):
        return isinstance(value, hint) if not getattr(hint, "_is_protocol", False) else False
    return True
