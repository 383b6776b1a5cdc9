"""Tells when another project's package stands where one of RouteGym's should.

RouteGym's packages bear plain names, and ``agents`` is also the import name of openai-agents.
Where both are installed, one hides the other or, in one site-packages, both write into the same folder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from importlib.util import find_spec

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
REMEDY = "RouteGym wants a virtual environment of its own: make one and install routegym there"


def intruder(name: str) -> str:
    """Say what stands in the place of our package ``name``; empty where it is ours or nothing is there."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # an import hook failed, or a module without spec bears the name
        return f"{name} cannot be looked up"
    if spec is None:
        return ""
    ours = os.path.join(ROOT, name, "__init__.py")
    if spec.origin is None:
        return f"{os.path.join(ROOT, name)} has lost its __init__.py, perhaps as another package was removed"
    if os.path.realpath(spec.origin) != os.path.realpath(ours):
        return f"{spec.origin} shadows RouteGym's {ours}"
    return _strangers(name)


def _strangers(name: str) -> str:
    """Say which modules in our folder our wheel did not bring.

    Whichever package came last has overwritten the other's ``__init__.py``, so that file tells nothing. An
    editable install has no list of files, and its folder is no place where another package is installed.
    """
    folders = [entry for entry in os.listdir(ROOT) if entry.startswith("routegym-") and "dist-info" in entry]
    if len(folders) != 1:
        return ""
    try:
        with open(os.path.join(ROOT, folders[0], "RECORD"), encoding="utf-8") as record:
            paths = (line.split(",", 1)[0].split("/") for line in record)
            brought = {path[1] for path in paths if len(path) > 1 and path[0] == name}
    except OSError:
        return ""
    found = os.listdir(os.path.join(ROOT, name))
    strange = sorted(entry for entry in found if entry.endswith(".py") and entry not in brought)
    shown = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
    return f"{os.path.join(ROOT, name)} also holds another package's files ({shown})" if strange else ""


def require_ours(names: Iterable[str]) -> None:
    """Raise ``ImportError`` unless each of these packages is ours."""
    for name in names:
        if found := intruder(name):
            raise ImportError(f"{found}. {REMEDY}.")


def warn_of_intruders() -> None:
    """Warn where ``agents`` is not ours: ``envs`` works without it."""
    if found := intruder("agents"):
        warnings.warn(f"{found}. {REMEDY}.", RuntimeWarning, stacklevel=2)
