"""What an adversary may do to the world, window by window: knobs of the requests and of the instances.

An attack is an array of values ``[num_windows, num_knobs]``. In each window of ``window_s`` seconds the first
knobs shape the requests that arrive (``Traffic``, acted out by ``adversary.world.stream``), and the others,
one of each kind per instance, what happens to the instances (events of ``envs.world`` at the window's
beginning). After the last window everything is as it was.

    threat = WorldThreat(window_s=10, num_windows=12, rate_factor=[0.5, 2.0], slowdown=4.0)
    knobs = threat.knobs(num_instances=4)      # rate_factor, slowdown[0], ..., slowdown[3]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np

from adversary.threat import Budget, Knob, Values, check_knobs, check_switches, neutral
from envs.cluster import InstanceTraits
from envs.world import (
    FAIL,
    FLUSH_CACHE,
    LAG_SCRAPES,
    MAX_SLOWDOWN,
    RESTART,
    SLOW,
    Schedule,
    World,
    WorldEvent,
)

SLOWDOWN, FAILED, CACHE_FLUSHED, SCRAPE_LAG = "slowdown", "failed", "cache_flushed", "scrape_lag_s"
"""Kinds of knobs of an instance; a knob's name is its kind and the instance, as ``slowdown[0]``."""


class Traffic(NamedTuple):
    """What is done to the requests of a window; by default nothing."""

    rate_factor: float = 1.0
    """They come so many times as fast."""
    frac_unshared: float = 0.0
    """So many of them have a prompt that no other request shares anything with: caches fill with it."""
    working_set_factor: float = 1.0
    """There are so many times as many different prefixes, each so many times as rare."""
    prompt_factor: float = 1.0
    """Their prompts are so many times as long: cut, or followed by what nobody else has."""
    frac_overflow: float = 0.0
    """So many of them are answered with ``overflow_tokens``."""
    frac_synchronised: float = 0.0
    """So many of them come all at once, as the window begins."""


@dataclass(frozen=True)
class WorldThreat:
    """Knobs, their bounds and a budget. A knob that is null, or false, is not there.

    Args:
        window_s: Length of a window; within it nothing is turned.
        num_windows: Windows in an attack.
        budget: How realistic an attack must be.
        rate_factor: Least and most of ``Traffic.rate_factor``.
        frac_unshared: Most of ``Traffic.frac_unshared``.
        working_set_factor: Most of ``Traffic.working_set_factor``.
        prompt_factor: Least and most of ``Traffic.prompt_factor``.
        max_model_len: No prompt is made so long that with its answer it has more tokens; to be given where
            prompts may grow.
        frac_overflow: Most of ``Traffic.frac_overflow``: a share of answers that run to the cap
            (BenchOverflow).
        overflow_tokens: That cap, to be given with it.
        frac_synchronised: Most of ``Traffic.frac_synchronised``.
        slowdown: Most times as long that an instance's steps may take.
        failures: Whether instances may be killed; they serve again in the first window after.
        cache_flushes: Whether prefix caches may be emptied, at most once a window.
        scrape_lag_s: Most that what is scraped of an instance may come late.
        epsilon: Share of all these bounds that is used, in (0, 1]; switches have no smaller form.

    Raises:
        ValueError: A value is out of its bounds, bounds cross, or there is no knob; names it and the mend.
    """

    window_s: float
    num_windows: int
    budget: Budget = field(default_factory=Budget)
    rate_factor: Sequence[float] | None = None
    frac_unshared: float | None = None
    working_set_factor: float | None = None
    prompt_factor: Sequence[float] | None = None
    max_model_len: int | None = None
    frac_overflow: float | None = None
    overflow_tokens: int | None = None
    frac_synchronised: float | None = None
    slowdown: float | None = None
    failures: bool = False
    cache_flushes: bool = False
    scrape_lag_s: float | None = None
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        """Check all that can be checked without a cluster."""
        if not 0.0 < self.window_s < inf or self.num_windows < 1:
            raise ValueError(
                f"window_s is {self.window_s} and num_windows {self.num_windows}: give a number of seconds"
                " above 0, and at least 1"
            )
        for name, bounds in (("rate_factor", self.rate_factor), ("prompt_factor", self.prompt_factor)):
            if bounds is not None and (len(bounds) != 2 or not bounds[0] > 0.0):
                raise ValueError(f"{name} is {bounds}: give two numbers above 0, the least and the most")
        fractions = (self.frac_unshared, self.frac_overflow, self.frac_synchronised)
        names = ("frac_unshared", "frac_overflow", "frac_synchronised")
        for name, most in zip(names, fractions, strict=True):
            if most is not None and not 0.0 < most <= 1.0:
                raise ValueError(f"{name} is {most}, it must lie in (0, 1], or be null: no such knob")
        if self.slowdown is not None and not self.slowdown <= MAX_SLOWDOWN:
            raise ValueError(f"slowdown is {self.slowdown}, it must not be above {MAX_SLOWDOWN:g}")
        if self.scrape_lag_s is not None:
            World(scrape_lag_s=self.scrape_lag_s)  # which has the same bounds
        grow = self.prompt_factor is not None and self.prompt_factor[1] > 1.0
        for name, given, needed, why in (
            ("overflow_tokens", self.overflow_tokens, self.frac_overflow is not None, "frac_overflow"),
            ("max_model_len", self.max_model_len, grow, "a prompt_factor above 1"),
        ):
            if needed and given is None:
                raise ValueError(f"{name} is null: {why} needs it, a number of tokens")
            if given is not None and given < 1:
                raise ValueError(f"{name} is {given}: it must be at least 1 token")
        check_knobs(self.knobs(1))
        check_switches(self.knobs(1), self.budget)

    @property
    def duration_s(self) -> float:
        """Of an attack."""
        return self.num_windows * self.window_s

    def knobs(self, num_instances: int) -> tuple[Knob, ...]:
        """All knobs for a cluster of so many instances: those of the requests, then each instance's."""
        of_instances = [
            knob._replace(name=f"{knob.name}[{instance}]", instance=instance)
            for knob in self._of_instance()
            for instance in range(num_instances)
        ]
        return tuple(knob.within(self.epsilon) for knob in (*self._of_traffic(), *of_instances))

    def check(self, traits: Sequence[InstanceTraits], world: World) -> None:
        """Raise ``ValueError`` where the threat does not fit a cluster in this world, or fits it badly."""
        if world.events:
            raise ValueError("the world has a schedule of its own: set it to null, the attack is one")
        if self.max_model_len is not None and self.max_model_len > max(each.max_model_len for each in traits):
            raise ValueError(
                f"max_model_len is {self.max_model_len}: no instance takes so long a prompt; the longest is"
                f" {max(each.max_model_len for each in traits)}"
            )
        if self.scrape_lag_s is not None and world.scrape_lag_s > 0.0:
            raise ValueError(
                f"the world's scrape_lag_s is {world.scrape_lag_s} and the attack turns it too: set it to 0"
            )
        if not self.failures:
            return
        most = self.budget.max_instances
        if most is None or most >= len(traits):
            raise ValueError(
                f"failures with a budget of max_instances {'null' if most is None else most} could kill all"
                f" {len(traits)} instances at once: allow fewer"
            )
        if world.cold_start_s > 0.0:
            raise ValueError(
                f"failures, and a world with a cold_start_s of {world.cold_start_s:g} s: an instance would be"
                " away for longer than its switch is on, and more than max_instances at once; set"
                " world.cold_start_s to 0, an attack may keep an instance down for more windows"
            )
        if world.absent or world.mean_time_to_failure_s is not None:
            raise ValueError(
                "failures need a world in which no instance is absent and none fails by chance: else an"
                " instance may be down already when it is to fail; unset absent and mean_time_to_failure_s"
            )

    def traffic(self, values: Values) -> Traffic:
        """What a window with these values, ``[num_knobs]``, does to its requests."""
        names = [knob.name for knob in self._of_traffic()]
        return Traffic(**dict(zip(names, values[: len(names)].tolist(), strict=True)))

    def events(self, window: int, values: Values, before: Values) -> list[WorldEvent]:
        """What happens to the instances as a window begins.

        Args:
            window: Its number, from 0; ``num_windows``: the end of the attack.
            values: Of this window, ``[num_knobs]``.
            before: Of the window before; for the first one, neutral.
        """
        at_s = window * self.window_s
        first = len(self._of_traffic())
        knobs = self.knobs(self.num_instances(len(values)))[first:]
        events = []
        for knob, value, was in zip(knobs, values[first:].tolist(), before[first:].tolist(), strict=True):
            kind = knob.name.partition("[")[0]
            if kind == CACHE_FLUSHED and value:
                events.append(WorldEvent(at_s, knob.instance, FLUSH_CACHE))
            elif kind == FAILED and value != was:
                events.append(WorldEvent(at_s, knob.instance, FAIL if value else RESTART))
            elif kind == SLOWDOWN and value != was:
                events.append(WorldEvent(at_s, knob.instance, SLOW, value))
            elif kind == SCRAPE_LAG and value != was:
                events.append(WorldEvent(at_s, knob.instance, LAG_SCRAPES, lag_s=value))
        return events

    def neutral(self, num_instances: int) -> Values:
        """Values of a whole attack that disturbs nothing, ``[num_windows, num_knobs]``."""
        return np.tile(neutral(self.knobs(num_instances)), (self.num_windows, 1))

    def schedule(self, values: Values) -> Schedule:
        """What happens to the instances in an attack, ``[num_windows, num_knobs]``, and its end."""
        self.check_values(values)
        still = neutral(self.knobs(self.num_instances(values.shape[1])))
        rows = [still, *values, still]
        return Schedule(
            [event for w in range(len(rows) - 1) for event in self.events(w, rows[w + 1], rows[w])]
        )

    def check_values(self, values: Values) -> None:
        """Raise ``ValueError`` where these are not the values of a whole attack."""
        if values.ndim != 2 or len(values) != self.num_windows:
            raise ValueError(
                f"the attack has values of shape {values.shape}: give one row for each of {self.num_windows}"
                " windows"
            )
        self.num_instances(values.shape[1])

    def num_instances(self, num_knobs: int) -> int:
        """Of the cluster, where there are so many knobs; ``ValueError`` where there cannot be."""
        of_traffic, of_instance = len(self._of_traffic()), len(self._of_instance())
        num_instances, rest = divmod(num_knobs - of_traffic, max(of_instance, 1))
        if num_instances < 0 or rest or (num_instances > 0 and not of_instance):
            raise ValueError(
                f"the attack has {num_knobs} values a window, the threat model {of_traffic} knobs of the"
                f" requests and {of_instance} per instance"
            )
        return num_instances

    def _of_traffic(self) -> list[Knob]:
        found = []
        if self.rate_factor is not None:
            least, most = map(float, self.rate_factor)
            found.append(Knob("rate_factor", "1", least, most, 1.0))
        if self.frac_unshared is not None:
            found.append(Knob("frac_unshared", "1", 0.0, self.frac_unshared, 0.0))
        if self.working_set_factor is not None:
            found.append(Knob("working_set_factor", "1", 1.0, self.working_set_factor, 1.0))
        if self.prompt_factor is not None:
            least, most = map(float, self.prompt_factor)
            found.append(Knob("prompt_factor", "1", least, most, 1.0))
        if self.frac_overflow is not None:
            found.append(Knob("frac_overflow", "1", 0.0, self.frac_overflow, 0.0))
        if self.frac_synchronised is not None:
            found.append(Knob("frac_synchronised", "1", 0.0, self.frac_synchronised, 0.0))
        return found

    def _of_instance(self) -> list[Knob]:
        found = []
        if self.slowdown is not None:
            found.append(Knob(SLOWDOWN, "1", 1.0, self.slowdown, 1.0))
        if self.failures:
            found.append(Knob(FAILED, "on", 0.0, 1.0, 0.0, is_switch=True))
        if self.cache_flushes:
            found.append(Knob(CACHE_FLUSHED, "on", 0.0, 1.0, 0.0, is_switch=True))
        if self.scrape_lag_s is not None:
            found.append(Knob(SCRAPE_LAG, "s", 0.0, self.scrape_lag_s, 0.0))
        return found
