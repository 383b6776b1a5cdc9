"""Sums that forget the past, as compiled functions over plain numbers.

A fading sum is its amount and the instant of which that is true; what was added a half-life ago counts half.
"""

from __future__ import annotations

import numpy as np
from numba import njit

import envs.emulator  # noqa: F401 (it says where compiled functions are kept)


@njit(cache=True, forceinline=True)
def faded(amount: float, at_s: float, now_s: float, half_life_s: float) -> float:
    """What is left now of an amount that stood at ``at_s``."""
    return amount * np.exp2((at_s - now_s) / half_life_s)  # type: ignore[no-any-return]


@njit(cache=True, forceinline=True)
def per_s(amount: float, half_life_s: float) -> float:
    """The rate whose steady flow would make this sum, per second."""
    return amount * np.log(2.0) / half_life_s  # type: ignore[no-any-return]
