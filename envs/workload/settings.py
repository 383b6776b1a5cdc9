"""Checks of the numbers that a user writes, with errors that name the key."""

from __future__ import annotations

from math import inf

from envs.cluster import Slo


def positive(key: str, value: object) -> float:
    """Return ``value`` if it is a finite number above 0; else ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ValueError(f"{key} is {value!r}: it must be a positive number")
    return float(value)


def positive_int(key: str, value: object) -> int:
    """Return ``value`` if it is a whole number from 1; else ``ValueError``."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{key} is {value!r}: it must be a whole number from 1")
    return value


def slo_of(slo_ttft_s: float, slo_tpot_s: float) -> Slo:
    """Return the objective of these two settings; ``ValueError`` where one is no positive number."""
    return Slo(positive("slo_ttft_s", slo_ttft_s), positive("slo_tpot_s", slo_tpot_s))
