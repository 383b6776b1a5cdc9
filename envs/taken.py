"""A directory that one process works in alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take(directory: Path) -> int:
    """Make a directory if need be and lock it; the lock goes with the process, or when this is closed.

    Returns:
        A file descriptor: ``os.close`` lets go.

    Raises:
        BlockingIOError: Another holds it.
        OSError: It cannot be made or opened.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
