"""Put a learner's state into a file, whole or not at all, and read it back.

The file is a NumPy archive: the arrays of the state under numbers, and under ``tree`` its JSON, in which
``{"array": 3}`` stands for array 3. Nothing in it can run code when it is read.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.files import write


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not a whole one."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of nested dicts, lists, arrays and plain values."""
    arrays: list[NDArray[Any]] = []
    tree = json.dumps(_without_arrays(state, arrays), allow_nan=True)
    named = {str(number): array for number, array in enumerate(arrays)}

    def write_to(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, tree=np.array(tree), **named)  # type: ignore[arg-type]

    write(path, write_to)


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote. Raises ``CheckpointError`` naming the file where it cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            tree = json.loads(str(archive["tree"]))
            state: dict[str, Any] = _with_arrays(tree, archive)
            return state
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({error}); delete it to begin this run again"
        ) from error


def _without_arrays(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value) or value.keys() == {"array"}:
            raise TypeError(
                f"cannot save a mapping with keys {list(value)}: they must be names, not 'array' alone"
            )
        return {key: _without_arrays(child, arrays) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(child, arrays) for child in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _with_arrays(value: Any, archive: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return archive[str(value["array"])]
        return {key: _with_arrays(child, archive) for key, child in value.items()}
    if isinstance(value, list):
        return [_with_arrays(child, archive) for child in value]
    return value
