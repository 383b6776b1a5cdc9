"""Writes a policy's bundle, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import agents.plugs
from agents.export import runtime
from agents.export.bundle import CARD, CODE, MODEL, PLUGS
from agents.export.onnx_file import OPSET, write_onnx
from agents.export.plan import Range, memory_of, trace
from agents.export.runtime import (
    ARRAYS,
    DECISION,
    FALLBACK,
    FORMAT,
    INPUTS,
    MEMORIES,
    PLAN,
    SCHEMA,
)
from agents.export.tracing import Tracer
from agents.policy import Policy
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES, SCHEMA_HASH
from envs.unfinished import part_of

CHOICE = (
    "u uniform in [0, 1); the first instance at which the running sum of propensities exceeds u. Equals share"
    " their probability"
)
MAX_DECISION_S = 0.002
"""After which a router should not wait for a decision."""


class Export(NamedTuple):
    """What goes into a bundle."""

    name: str
    policy: Policy
    fallback: Policy | None = None
    """A heuristic that decides where the policy has no right to."""
    fallback_name: str | None = None
    trained_on: Range | None = None
    """For policies that do not say themselves what they were trained on."""
    max_instances: int = 64

    @property
    def range_check(self) -> str | None:
        """``chosen`` or ``any``: of which instances it leaves features out of its range to the fallback."""
        check: str | None = getattr(self.policy, "range_check", None)
        return check

    def guards(self) -> list[str]:
        """What keeps the policy from harm, a sentence each."""
        said = [f"It refuses features that are not finite, and more than {self.max_instances} instances."]
        if self.fallback_name is not None:
            said.append(f"Its fallback is {self.fallback_name}, whose decisions are in the same plan.")
        if self.range_check is not None:
            said.append(
                f"Where a feature of {self.range_check} instances is out of the range of its training, the"
                " fallback decides."
            )
        elif self.fallback_name is not None:
            said.append(
                "is_out_of_range says where what it would choose lies out of the range of its training; it"
                " decides there all the same, as in training, unless you let the fallback."
            )
        return said


def write(directory: Path, export: Export, describe: Callable[[Path], str]) -> None:
    """Write the bundle; one that is there is replaced.

    Args:
        directory: Of the bundle.
        export: What goes into it.
        describe: Makes its card, given the folder in which all else already lies; raises if it is not good.

    Raises:
        CannotExportError: The policy cannot be exported.
        OSError: It cannot be written; what was there before still is.
    """
    if directory.exists() and not (directory / SCHEMA).exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} holds something else than a bundle; give another directory=")
    tracer = trace(export.policy, export.fallback, export.trained_on, export.max_instances)
    directory.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(directory)
    part.mkdir()
    try:
        _fill(part, export, tracer, describe)
        _replace(directory, part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(part: Path, export: Export, tracer: Tracer, describe: Callable[[Path], str]) -> None:
    has_fallback = export.fallback is not None
    num_axes = {**dict.fromkeys(DECISION, 1), "is_out_of_range": 0}
    num_axes |= dict.fromkeys(FALLBACK if has_fallback else (), 1)
    arrays = {PLAN: np.array(json.dumps(tracer.steps)), **tracer.constants}
    np.savez(part / ARRAYS, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    about = {"name": export.name, "version": _sha256(part / ARRAYS)[:16], "schema_hash": SCHEMA_HASH}
    write_onnx(part / MODEL, tracer, num_axes, about)
    shutil.copyfile(str(runtime.__file__), part / CODE)
    plugs = _copy_plugs(part / PLUGS)
    memory = memory_of(export.policy, export.fallback)
    schema = {
        "format": FORMAT,
        **about,
        "instance_features": INSTANCE_FEATURES,
        "request_features": REQUEST_FEATURES,
        "inputs": {name: str(tracer.dtypes[name]) for name in INPUTS},
        "outputs": {name: str(tracer.dtypes[name]) for name in num_axes},
        "memory": memory,
        "memory_is": MEMORIES[memory],
        "choice": CHOICE,
        "range_check": export.range_check,
        "fallback": export.fallback_name,
        "opset": OPSET,
        "limits": {"max_instances": export.max_instances, "max_decision_s": MAX_DECISION_S},
    }
    files = (MODEL, ARRAYS, CODE, *plugs)
    for names in (files, (*files, CARD)):
        held = {**schema, "sha256": {name: _sha256(part / name) for name in names}}
        (part / SCHEMA).write_text(json.dumps(held, indent=2) + "\n", encoding="utf-8")
        if CARD not in names:
            (part / CARD).write_text(describe(part), encoding="utf-8")
    for path in (part / name for name in (SCHEMA, *files, CARD)):
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _copy_plugs(folder: Path) -> list[str]:
    """Copy the plugs; return their names within the bundle."""
    folder.mkdir()
    names = []
    for path in sorted(Path(str(agents.plugs.__file__)).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8").replace("from agents.plugs.", "from .")
        (folder / path.name).write_text(text, encoding="utf-8")
        names.append(f"{PLUGS}/{path.name}")
    return names


def _replace(directory: Path, part: Path) -> None:
    """Put the finished folder into its place. Of one that is there a reader may miss it for an instant."""
    if not directory.exists():
        part.rename(directory)
        return
    old = part_of(directory.with_name(directory.name + ".old"))
    directory.rename(old)
    part.rename(directory)
    shutil.rmtree(old)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
