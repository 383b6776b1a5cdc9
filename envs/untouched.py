"""Zeros that take memory only where they are written to."""

from __future__ import annotations

import mmap
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def untouched(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros for a large array of which little is used.

    NumPy asks the system for pages of 2 MiB, and of an array that is written to here and there each is
    cleared and kept as a whole: for 64 clusters that is some gigabytes, and most of the time of their first
    thousands of steps. This memory comes in the system's smallest pages.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size == 0 or not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows has none
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.ndarray(shape, dtype, memory)
