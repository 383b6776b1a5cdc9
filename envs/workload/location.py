"""Where the trace files lie: they are other people's data, so they are read in place and never copied."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ROUTEGYM_TRACES"
"""Environment variable that names the folder of traces."""

DEFAULT_FOLDER = "../shared/traces"
"""The folder where the variable is not set, relative to the current directory."""


def _expected(relative: str) -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER) / relative


def have(relative: str) -> bool:
    """Whether a trace file lies under the folder of traces."""
    return _expected(relative).is_file()


def trace_path(relative: str) -> Path:
    """Path of a trace file, such as ``mooncake/conversation_trace.jsonl``.

    Raises ``FileNotFoundError`` where it is absent.
    """
    path = _expected(relative)
    if not path.is_file():
        raise FileNotFoundError(
            f"no trace at {path}: set {VARIABLE} to the folder that holds {relative},"
            " or use a workload that needs no file (workload=generated, or on_missing=generate)"
        )
    return path
