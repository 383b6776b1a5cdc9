"""Where vLLM is: in an environment of its own, since it pins what RouteGym does not want pinned."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON_VARIABLE = "ROUTEGYM_VLLM"
NO_VLLM = f"no vLLM: `make vllm` installs it, or {PYTHON_VARIABLE} names a Python that has it"


def vllm_python() -> Path | None:
    """The Python that has vLLM: what ROUTEGYM_VLLM says, or .venv-vllm of this checkout, if there is one.

    Raises:
        FileNotFoundError: ROUTEGYM_VLLM names no file.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    path = Path(named) if named else ROOT / ".venv-vllm" / "bin" / "python"
    if named and not path.exists():
        raise FileNotFoundError(f"{PYTHON_VARIABLE} says {named}, and there is no such file")
    return path if path.exists() else None
