"""Where compiled functions are kept, and a word to who waits for them.

The first use on a machine, and the first after an update, compiles: numba does so when a function is called
first, keeps the result, and says nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numba
from numba.core import event

NOTICE = (
    "RouteGym: compiling for this machine, once for each version of the source; this takes up to a minute ..."
)


def cache_folder(package: Path) -> Path:
    """Where compiled functions are kept: a folder for each state of the source of ``envs``.

    Numba takes a kept function for valid while its own file is unchanged, though what is inlined into it
    comes from other files too: after an update half of the emulator would be the old one.
    """
    digest = hashlib.sha256()
    for path in sorted(package.parent.glob("*.py")) + sorted(package.glob("*.py")):
        digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or package / "__pycache__"
    return Path(root) / f"emulator-{digest.hexdigest()[:16]}"


class _Announcement(event.Listener):
    """Prints ``NOTICE`` to standard error when the first function of ours that is to be kept is compiled.

    What is compiled anew in each process (a rule given to ``replay``) takes seconds and is not announced.
    """

    def __init__(self) -> None:
        self._is_made = False

    def on_start(self, event: event.Event) -> None:
        """Numba found a function neither in memory nor in its folder, and compiles it."""
        dispatcher = event.data["dispatcher"]
        is_kept = dispatcher.stats.cache_path is not None
        if is_kept and not self._is_made and dispatcher.py_func.__module__.startswith("envs."):
            self._is_made = True
            print(NOTICE, file=sys.stderr, flush=True)

    def on_end(self, event: event.Event) -> None:
        """It is compiled."""


def keep_compiled(package: Path) -> None:
    """From now on keep what is compiled in the folder of the package's state, and announce the first time."""
    numba.config.CACHE_DIR = str(cache_folder(package))  # type: ignore[attr-defined]
    event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]
