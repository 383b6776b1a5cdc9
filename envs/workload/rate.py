"""How the arrival rate changes over time, with its exact integral and the integral's inverse.

schedule = RateSchedule(3.4, ramps=(Ramp(600, 900, 2.0),), bursts=(Burst(1200, 30, 5.0),))
arrived_at_s = schedule.instant_of(np.cumsum(unit_rate_gaps))  # the same stream, time-warped
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Shift(NamedTuple):
    """From ``at_s`` on, the level is ``factor`` times the base."""

    at_s: float
    factor: float


class Ramp(NamedTuple):
    """The level goes straight to ``factor`` times the base between two instants, and stays there."""

    start_s: float
    stop_s: float
    factor: float


class Burst(NamedTuple):
    """For ``duration_s`` from ``start_s`` on, the rate is ``factor`` times the level."""

    start_s: float
    duration_s: float
    factor: float


Event = TypeVar("Event", Shift, Ramp, Burst)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf


def events_of(kind: type[Event], key: str, rows: Sequence[Sequence[float]]) -> tuple[Event, ...]:
    """Return the shifts, ramps or bursts of a setting's rows of plain numbers.

    Raises ``ValueError`` that names ``key``, the row and the form expected.
    """
    form = f"[{', '.join(kind._fields)}]"
    if not _is_list(rows):
        raise ValueError(f"{key} is {rows!r}: give a list of {form}")
    for index, row in enumerate(rows):
        if not _is_list(row) or len(row) != len(kind._fields) or not all(map(_is_number, row)):
            raise ValueError(f"{key}[{index}] is {row}: give {form}, numbers from 0")
    return tuple(kind(*row) for row in rows)


@dataclass(frozen=True)
class RateSchedule:
    """A piecewise linear arrival rate from instant 0 on; the last level holds for ever.

    Shifts and ramps set the level (1 at first) and must not overlap; bursts multiply it, and one another.
    Raises ``ValueError`` for a schedule that is not so, or whose rate ends at 0.
    """

    base_per_s: float
    shifts: tuple[Shift, ...] = ()
    ramps: tuple[Ramp, ...] = ()
    bursts: tuple[Burst, ...] = ()
    _starts_s: Floats = field(init=False, repr=False, compare=False)
    """First instant of each piece, ``[num_pieces]``."""
    _rates: Floats = field(init=False, repr=False, compare=False)
    """Rate at the start of each piece."""
    _slopes: Floats = field(init=False, repr=False, compare=False)
    """Change of rate per second within each piece."""
    _counts: Floats = field(init=False, repr=False, compare=False)
    """Arrivals expected before each piece."""

    def __post_init__(self) -> None:
        if not 0.0 < self.base_per_s < float("inf"):
            raise ValueError(f"base_per_s is {self.base_per_s}: it must be a positive number of arrivals")
        for event in (*self.shifts, *self.ramps, *self.bursts):
            if not all(np.isfinite(event)) or min(event) < 0.0:
                raise ValueError(f"{event}: instants, durations and factors must be numbers from 0")
        level = self._level_knots()
        knots = {0.0, *(at for at, _, _ in level)}
        for burst in self.bursts:
            knots |= {burst.start_s, burst.start_s + burst.duration_s}
        starts = np.array(sorted(knots))
        level_at = np.array([at for at, _, _ in level])
        piece = np.searchsorted(level_at, starts, side="right") - 1
        values = np.array([value for _, value, _ in level])[piece]
        slopes = np.array([slope for _, _, slope in level])[piece]
        scale = np.full(len(starts), self.base_per_s)
        for burst in self.bursts:
            inside = (starts >= burst.start_s) & (starts < burst.start_s + burst.duration_s)
            scale[inside] *= burst.factor
        rates = scale * np.maximum(values + slopes * (starts - level_at[piece]), 0.0)
        slopes = scale * slopes
        lengths = np.diff(starts)
        masses = np.maximum(lengths * (rates[:-1] + 0.5 * slopes[:-1] * lengths), 0.0)
        if not rates[-1] > 0.0:
            raise ValueError("the schedule's rate ends at 0, so that arrivals would end: let it rise again")
        object.__setattr__(self, "_starts_s", starts)
        object.__setattr__(self, "_rates", rates)
        object.__setattr__(self, "_slopes", slopes)
        object.__setattr__(self, "_counts", np.concatenate(([0.0], np.cumsum(masses))))

    def _level_knots(self) -> list[tuple[float, float, float]]:
        """Pieces of the level, without bursts: (start_s, level there, slope per s)."""
        spans = [Ramp(shift.at_s, shift.at_s, shift.factor) for shift in self.shifts]
        for ramp in self.ramps:
            if not ramp.stop_s > ramp.start_s:
                raise ValueError(f"{ramp}: it must stop after it starts; use a shift for a jump")
            spans.append(ramp)
        knots = [(0.0, 1.0, 0.0)]
        for start, stop, factor in sorted(spans):
            at, level, _ = knots[-1]
            if start < at:
                raise ValueError(
                    f"a shift or ramp begins at {start:g} s, before the last one ends at {at:g} s: part them"
                )
            if stop > start:
                knots.append((start, level, (factor - level) / (stop - start)))
            knots.append((stop, factor, 0.0))
        return knots

    def rate_per_s(self, time_s: ArrayLike) -> Floats:
        """Arrivals per second at each instant; after a jump, the new rate."""
        times = np.asarray(time_s, np.float64)
        piece = self._piece(times)
        return np.asarray(self._rates[piece] + self._slopes[piece] * (times - self._starts_s[piece]))

    def expected_count(self, time_s: ArrayLike) -> Floats:
        """Arrivals expected from 0 to each instant: the exact integral of the rate."""
        times = np.asarray(time_s, np.float64)
        piece = self._piece(times)
        since = times - self._starts_s[piece]
        return np.asarray(
            self._counts[piece] + since * (self._rates[piece] + 0.5 * self._slopes[piece] * since)
        )

    def instant_of(self, count: ArrayLike) -> Floats:
        """Return the instant at which each expected count is reached, the inverse of ``expected_count``.

        Where the rate is 0 for a while, a count reached just before it stands for its end.
        """
        counts = np.asarray(count, np.float64)
        if counts.size and not counts.min() >= 0.0:
            raise ValueError(f"an expected count is {counts.min()}: it must be a number from 0")
        piece = np.searchsorted(self._counts, counts, side="right") - 1
        left, rate, slope = counts - self._counts[piece], self._rates[piece], self._slopes[piece]
        root = np.sqrt(np.maximum(rate * rate + 2.0 * slope * left, 0.0))
        below = rate + root  # 0 only at the very start of a ramp from 0
        since = np.divide(2.0 * left, below, out=np.zeros_like(counts), where=below > 0.0)
        ends = np.append(self._starts_s[1:], np.inf)[piece]
        return np.asarray(np.minimum(self._starts_s[piece] + since, ends))

    def _piece(self, times: Floats) -> NDArray[np.intp]:
        if times.size and not times.min() >= 0.0:
            raise ValueError(f"an instant is {times.min()} s: the schedule begins at 0")
        return np.asarray(np.searchsorted(self._starts_s, times, side="right") - 1)
