"""What an adversary may do, and the one way to do no more: knobs, bounds, a budget, and the projection.

An attack is an array of *values* ``[num_steps, num_knobs]``. A step is a routing decision where the attack
is on what a router sees (``adversary.feature``), and a window of some seconds where it is on the world
(``adversary.world``). Whatever an attacker wants passes through a ``Projector``, so that bounds and budget
hold by construction; ``adversary.validate`` checks what was recorded by other means.

    projector = Projector(knobs, Budget(max_slope=0.5, window=4, max_instances=1))
    values = projector.step(wanted)            # each step of a closed loop
    values = projector.project(wanted)         # or all steps of an open one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Knob(NamedTuple):
    """Something that an adversary may turn."""

    name: str
    unit: str
    low: float
    high: float
    neutral: float
    """Where it disturbs nothing: within [low, high]; every attack begins there."""
    instance: int = -1
    """The instance that it disturbs; -1: none in particular."""
    is_switch: bool = False
    """Whether it is either off, 0, or on, 1."""

    def check(self) -> None:
        """Raise ``ValueError`` where bounds cross, are not finite or leave out the neutral value."""
        if not all(isfinite(value) for value in (self.low, self.high, self.neutral)):
            raise ValueError(
                f"knob {self.name}: its bounds are [{self.low}, {self.high}] and its neutral value"
                f" {self.neutral}; all must be finite"
            )
        unit = "" if self.unit == "1" else f" {self.unit}"
        if self.low >= self.high:
            raise ValueError(
                f"knob {self.name}: its bounds [{self.low:g}, {self.high:g}]{unit} cross or leave"
                " nothing to turn; the first must be below the second"
            )
        if not self.low <= self.neutral <= self.high:
            raise ValueError(
                f"knob {self.name}: {self.neutral:g}{unit}, where it disturbs nothing, is not within"
                f" its bounds [{self.low:g}, {self.high:g}]; widen them"
            )
        if self.is_switch and (self.low, self.high, self.neutral) != (0.0, 1.0, 0.0):
            raise ValueError(f"knob {self.name}: a switch has the bounds 0 and 1 and is off at 0")

    def within(self, epsilon: float) -> Knob:
        """The knob with its bounds at a share of their distance from neutral; a switch stays as it is."""
        if not 0.0 < epsilon <= 1.0:
            raise ValueError(f"epsilon is {epsilon}, it must be in (0, 1]: the share of the bounds to use")
        if self.is_switch:
            return self
        low, high = (self.neutral + epsilon * (bound - self.neutral) for bound in (self.low, self.high))
        return self._replace(low=low, high=high)


@dataclass(frozen=True)
class Budget:
    """How realistic an attack must be.

    Args:
        max_slope: Most that a knob may change per step in the mean over the last ``window`` steps, as a share
            of its range, high less low; null: any change. CCLab's smoothness budget (its Eq. 8 allows 48 of
            95 Mbps per step, 0.5 of the range). Before the first step every knob was neutral for ever.
        window: Steps of that mean; CCLab's k.
        max_instances: Instances disturbed at one time, by knobs that are not neutral; null: any number.

    Raises:
        ValueError: A limit leaves nothing to do, or is none.
    """

    max_slope: float | None = None
    window: int = 4
    max_instances: int | None = None

    def __post_init__(self) -> None:
        """Refuse budgets with which nothing can be done."""
        if self.max_slope is not None and not 0.0 < self.max_slope < float("inf"):
            raise ValueError(
                f"max_slope is {self.max_slope}: no knob could be turned; give a number above 0, or null for"
                " no limit"
            )
        if self.window < 1:
            raise ValueError(f"window is {self.window}, it must be at least 1 step")
        if self.max_instances is not None and self.max_instances < 1:
            raise ValueError(
                f"max_instances is {self.max_instances}: no instance could be disturbed; give 1 or more, or"
                " null for no limit"
            )


def check_knobs(knobs: Sequence[Knob]) -> None:
    """Raise ``ValueError`` where there is no knob, two have one name, or one is not right."""
    if not knobs:
        raise ValueError("the threat model has no knob: name at least one feature or property to disturb")
    for knob in knobs:
        knob.check()
    names = [knob.name for knob in knobs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two knobs are named {name}: leave one of them out")


def check_switches(knobs: Sequence[Knob], budget: Budget) -> None:
    """Raise ``ValueError`` where the budget leaves a switch that can never be thrown."""
    for knob in knobs:
        if knob.is_switch and budget.max_slope is not None and budget.max_slope * budget.window < 1.0:
            raise ValueError(
                f"max_slope is {budget.max_slope:g} over a window of {budget.window}: {knob.name} goes from 0"
                f" to 1 at once and could never be thrown; give at least {1.0 / budget.window:g}, or leave it"
                " out"
            )


def neutral(knobs: Sequence[Knob]) -> Values:
    """The values that disturb nothing, ``[num_knobs]``."""
    return np.array([knob.neutral for knob in knobs])


class UnitPositions:
    """Values of knobs as positions in [-1, 1], as networks and searches like to give them, and back.

    A knob that can be turned both ways is neutral at 0 and linear on either side; one that can be turned one
    way only is linear from -1 to 1.
    """

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._low, self._high, self._neutral = (
            np.array([getattr(knob, bound) for knob in knobs]) for bound in ("low", "high", "neutral")
        )
        self._two_sided = (self._neutral > self._low) & (self._neutral < self._high)
        self._half = 0.5 * (self._high - self._low)

    def values(self, positions: NDArray[np.floating[Any]]) -> Values:
        """Values of positions ``[..., num_knobs]``; beyond [-1, 1] they are cut."""
        cut = np.minimum(np.maximum(np.asarray(positions, np.float64), -1.0), 1.0)
        below = cut < 0.0
        reach = np.where(below, self._neutral - self._low, self._high - self._neutral)
        around = self._neutral + cut * reach
        across = np.where(below, self._low + (1.0 + cut) * self._half, self._high - (1.0 - cut) * self._half)
        values: Values = np.where(self._two_sided, around, across)
        return values

    def positions(self, values: Values) -> Values:
        """Positions of values ``[..., num_knobs]`` that are within bounds."""
        middle = np.where(self._two_sided, self._neutral, self._low + self._half)
        away = values - middle
        positions: Values = away / np.where(away < 0.0, middle - self._low, self._high - middle)
        return positions


class Projector:
    """Brings wanted values into bounds and budget, one step after the other.

    Each step goes as far towards what is wanted as is allowed. Where more instances are wanted than may be
    disturbed, those furthest from neutral win, but one that cannot yet be let go, for its slope, keeps its
    place. A switch that may not yet be thrown stays as it is.
    """

    def __init__(self, knobs: Sequence[Knob], budget: Budget) -> None:
        check_knobs(knobs)
        self.knobs, self.budget = tuple(knobs), budget
        self._low = np.array([knob.low for knob in knobs])
        self._high = np.array([knob.high for knob in knobs])
        self._range: Values = self._high - self._low
        self._neutral = neutral(knobs)
        self._is_switch = np.array([knob.is_switch for knob in knobs])
        self._any_switch = bool(self._is_switch.any())
        instance = np.array([knob.instance for knob in knobs])
        self._instances, place = np.unique(instance, return_inverse=True)
        if self._instances[0] < 0:  # the knobs of no instance come last, and are never dropped
            self._instances, place = self._instances[1:], place - 1
            place[instance < 0] = len(self._instances)
        self._place = place  # of each knob's instance among the disturbed ones
        self._by_instance = np.argsort(place, kind="stable")[: int((instance >= 0).sum())]
        self._firsts = np.searchsorted(place[self._by_instance], np.arange(len(self._instances)))
        self.reset()

    def reset(self) -> None:
        """Begin anew: everything has been neutral for ever."""
        self._values = self._neutral.copy()
        self._changes = np.zeros((self.budget.window - 1, len(self.knobs)))  # the last, in shares of range
        self._num_steps = 0

    def step(self, wanted: Values) -> Values:
        """The values of the next step: as close to ``wanted`` ``[num_knobs]`` as bounds and budget allow."""
        wanted = np.asarray(wanted, np.float64)
        if wanted.shape != self._values.shape:
            raise ValueError(
                f"the attacker gave values of shape {wanted.shape} for {len(self.knobs)} knobs: one for each"
            )
        if not np.isfinite(wanted).all():
            place = int(np.argmin(np.isfinite(wanted)))
            raise ValueError(
                f"the attacker set knob {self.knobs[place].name} to {wanted[place]}: it must be finite"
            )
        wanted = np.minimum(np.maximum(wanted, self._low), self._high)
        if self._any_switch:
            wanted = np.where(self._is_switch, np.rint(wanted), wanted)
        if self.budget.max_slope is None:
            self._values = self._fewer_instances(wanted, None)
            return self._values.copy()
        allowed = self._allowed()
        wanted = self._fewer_instances(wanted, allowed)
        change = wanted - self._values
        moved = np.minimum(np.maximum(self._values + np.sign(change) * allowed, self._low), self._high)
        if self._any_switch:
            moved = np.where(self._is_switch, self._values, moved)
        values = np.where(np.abs(change) <= allowed, wanted, moved)
        if len(self._changes):
            self._changes[self._num_steps % len(self._changes)] = np.abs(values - self._values) / self._range
        self._num_steps += 1
        self._values = values
        return values.copy()

    @property
    def values(self) -> Values:
        """Those of the last step, ``[num_knobs]``; before the first one, neutral."""
        return self._values.copy()

    def reach(self) -> tuple[Values, Values]:
        """The lowest and the highest values that each knob, by itself, may take at the next step."""
        allowed = self._allowed()
        low = np.maximum(self._values - allowed, self._low)
        high = np.minimum(self._values + allowed, self._high)
        stuck = self._is_switch & (allowed < self._range)
        return np.where(stuck, self._values, low), np.where(stuck, self._values, high)

    def project(self, wanted: Values) -> Values:
        """Values of a whole attack, from its beginning: ``[num_steps, num_knobs]`` to the same."""
        self.reset()
        return np.array([self.step(row) for row in wanted]).reshape(len(wanted), len(self.knobs))

    def _allowed(self) -> Values:
        """How far each knob may go now."""
        if self.budget.max_slope is None:
            return self._range
        left = self.budget.max_slope * self.budget.window - self._changes.sum(axis=0)
        allowed: Values = np.maximum(left, 0.0) * self._range
        return allowed

    def _fewer_instances(self, wanted: Values, allowed: Values | None) -> Values:
        """``wanted``, neutral for the instances that are too many; ``allowed`` is None where anything is."""
        most = self.budget.max_instances
        if most is None or most >= len(self._instances):
            return wanted
        distance = np.abs(wanted - self._neutral) / self._range
        strength = np.maximum.reduceat(distance[self._by_instance], self._firsts)
        if allowed is not None:
            stuck = (np.abs(self._values - self._neutral) > allowed)[self._by_instance]
            strength[np.logical_or.reduceat(stuck, self._firsts)] = np.inf
        kept = np.zeros(len(strength) + 1, np.bool_)
        kept[(-strength).argsort(kind="stable")[:most]] = True
        kept[-1] = True
        values: Values = np.where(kept[self._place], wanted, self._neutral)
        return values
