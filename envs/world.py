"""What goes wrong in a world: plain data that a cluster acts out, the same for every backend that can.

    world = World(schedule=Schedule([{"at_s": 60, "instance": 0, "what": "slow", "factor": 4}]), absent=[7])
    cluster = envs.emulator.fleet.cluster(groups, world=world)

Everything is off by default and bounded. A schedule is the trace of an attack or of an outage: with the
request stream it replays anywhere, from a JSON file (``Schedule.save``, ``Schedule.load``)::

    {"events": [{"at_s": 60.0, "instance": 0, "what": "slow", "factor": 4.0},
                {"at_s": 90.0, "instance": 1, "what": "fail"},
                {"at_s": 95.0, "instance": 1, "what": "restart"}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, cast

from envs.unfinished import whole

SLOW, FAIL, RESTART, ADD, REMOVE, FLUSH_CACHE = "slow", "fail", "restart", "add", "remove", "flush_cache"
LAG_SCRAPES = "lag_scrapes"
MAX_SLOWDOWN = 100.0
MAX_DELAY_S = 60.0
MIN_TIME_TO_FAILURE_S = 0.01
_MOST_S = {
    "network_jitter_s": MAX_DELAY_S,
    "scrape_lag_s": 3600.0,
    "downtime_s": 86400.0,
    "cold_start_s": 86400.0,
}
"""Knob -> the longest time it may be."""

_UP, _DOWN, _ABSENT = "up", "down", "absent"
_CHANGES: dict[str, tuple[tuple[str, ...], str | None]] = {  # what -> (states it may find, state it leaves)
    SLOW: ((_UP, _DOWN, _ABSENT), None),
    FAIL: ((_UP,), _DOWN),
    RESTART: ((_DOWN,), _UP),
    ADD: ((_ABSENT,), _UP),
    REMOVE: ((_UP, _DOWN), _ABSENT),
    FLUSH_CACHE: ((_UP, _DOWN, _ABSENT), None),
    LAG_SCRAPES: ((_UP, _DOWN, _ABSENT), None),
}
_AMOUNTS = {SLOW: "factor", LAG_SCRAPES: "lag_s"}
"""What takes an amount, and which."""


class WorldEvent(NamedTuple):
    """Something that happens to an instance at an instant."""

    at_s: float
    instance: int
    what: str
    """One of

    * ``slow``: its steps take ``factor`` times as long from now on (throttling; 1 ends it);
    * ``fail``: its process dies, with its cache and all its requests;
    * ``restart``: a new process starts after ``fail``;
    * ``add``: an absent instance starts; one that still drains is kept instead, as it is;
    * ``remove``: it gets nothing new, finishes what it has and is gone;
    * ``flush_cache``: its prefix cache is forgotten;
    * ``lag_scrapes``: what is scraped of it from now on reaches routers ``lag_s`` later.
    """
    factor: float = 1.0
    """Of ``slow``, within [1, ``MAX_SLOWDOWN``]."""
    lag_s: float = 0.0
    """Of ``lag_scrapes``; the world's ``scrape_lag_s`` until then."""

    def row(self) -> dict[str, Any]:
        """As it stands in a schedule's file."""
        row: dict[str, Any] = {"at_s": self.at_s, "instance": self.instance, "what": self.what}
        name = _AMOUNTS.get(self.what)
        return row | {name: getattr(self, name)} if name else row


@dataclass(frozen=True, slots=True)
class Schedule:
    """Events in order of time.

    Args:
        events: ``WorldEvent`` or mappings with its fields.

    Raises:
        ValueError: An event is none; names its place, the value and what to write.
    """

    events: Sequence[WorldEvent | Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        """Check every event by itself, and their order."""
        events = tuple(_event(event, f"event {place}") for place, event in enumerate(self.events))
        for place, (one, other) in enumerate(pairwise(events)):
            if other.at_s < one.at_s:
                raise ValueError(
                    f"event {place + 1} is at {other.at_s} s, before event {place} at {one.at_s} s: sort them"
                )
        object.__setattr__(self, "events", events)

    def __iter__(self) -> Iterator[WorldEvent]:
        """The events."""
        return iter(cast(tuple[WorldEvent, ...], self.events))

    def __len__(self) -> int:
        """Number of events."""
        return len(self.events)

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a schedule's file. Raises ``ValueError`` naming the file, the event and the mend."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"schedule {path}: cannot be read as JSON ({error})") from error
        if (
            not isinstance(content, dict)
            or list(content) != ["events"]
            or not isinstance(content["events"], list)
        ):
            raise ValueError(f'schedule {path}: write {{"events": [...]}} and no other key')
        try:
            return cls(content["events"])
        except ValueError as error:
            raise ValueError(f"schedule {path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write it to a file that ``load`` reads, one event a line; whole or not at all."""
        lines = ",\n".join(f"  {json.dumps(event.row())}" for event in self)
        with whole(Path(path)) as part:
            part.write_text(f'{{"events": [\n{lines}\n]}}\n', encoding="utf-8")

    def check(self, num_instances: int, absent: Iterable[int] = ()) -> None:
        """Raise ``ValueError`` where an event names no instance or finds it in a state that it cannot change.

        Args:
            num_instances: Of the cluster, those absent at first too.
            absent: Instances that are not there at time 0.
        """
        states = [_UP] * num_instances
        for instance in absent:
            states[instance] = _ABSENT
        for place, event in enumerate(self):
            if event.instance >= num_instances:
                raise ValueError(
                    f"event {place}: there is no instance {event.instance}, the cluster has {num_instances}"
                )
            wanted, left = _CHANGES[event.what]
            state = states[event.instance]
            if state not in wanted:
                raise ValueError(
                    f"event {place}: cannot {event.what} instance {event.instance} at {event.at_s} s: it is"
                    f" {state} then, it must be {' or '.join(wanted)}"
                )
            states[event.instance] = left or state


@dataclass(frozen=True, slots=True)
class World:
    """The knobs of a world, all off by default.

    Args:
        schedule: What happens when: a ``Schedule``, or the path of its file.
        network_delay_s: One way between router and instance, for all or one per instance: requests arrive so
            much later, tokens are learned so much later.
        network_jitter_s: A request's two ways take up to so much longer each, uniformly.
        scrape_lag_s: Scraped values reach the router so long after they were measured.
        frac_scrapes_lost: Chance that a scrape of an instance brings nothing.
        mean_time_to_failure_s: Every instance fails after an exponential time of service; null: none does.
        downtime_s: Time from such a failure until the process is started again.
        cold_start_s: Time from ``restart``, ``add`` or such a start until the instance serves.
        absent: Instances that are not there until they are added.

    Raises:
        ValueError: A value is out of its bounds; names it and the mend.
    """

    schedule: Schedule | str | None = None
    network_delay_s: float | Sequence[float] = 0.0
    network_jitter_s: float = 0.0
    scrape_lag_s: float = 0.0
    frac_scrapes_lost: float = 0.0
    mean_time_to_failure_s: float | None = None
    downtime_s: float = 30.0
    cold_start_s: float = 60.0
    absent: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Read the schedule and check what can be checked without a cluster."""
        if isinstance(self.schedule, str | Path):
            object.__setattr__(self, "schedule", Schedule.load(self.schedule))
        elif self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise ValueError(
                f"schedule is a {type(self.schedule).__name__}: write a Schedule, or the path of its file"
            )
        delays = self.network_delay_s
        for delay_s in delays if isinstance(delays, Sequence) and not isinstance(delays, str) else (delays,):
            _check_time("network_delay_s", delay_s, MAX_DELAY_S)
        for name, most_s in _MOST_S.items():
            _check_time(name, getattr(self, name), most_s)
        if not isinstance(self.absent, Sequence) or not all(_is_whole(index) for index in self.absent):
            raise ValueError(
                f"absent is {self.absent!r}, it must be a list of instances, whole numbers from 0"
            )
        if not _is_number(self.frac_scrapes_lost) or not 0.0 <= self.frac_scrapes_lost <= 1.0:
            raise ValueError(f"frac_scrapes_lost is {self.frac_scrapes_lost}, it must lie in [0, 1]")
        mean_s = self.mean_time_to_failure_s
        if mean_s is not None:
            if not _is_number(mean_s) or not MIN_TIME_TO_FAILURE_S <= mean_s < inf:
                raise ValueError(
                    f"mean_time_to_failure_s is {mean_s}, it must be a number of seconds from"
                    f" {MIN_TIME_TO_FAILURE_S}, or null"
                )
            for event in self.events:
                if event.what not in (SLOW, FLUSH_CACHE, LAG_SCRAPES):
                    raise ValueError(
                        f"mean_time_to_failure_s is {mean_s} and the schedule says {event.what} at"
                        f" {event.at_s} s: chance would decide whether it can; leave one of the two out"
                    )

    @property
    def events(self) -> tuple[WorldEvent, ...]:
        """Of the schedule; empty without one."""
        return tuple(self.schedule) if isinstance(self.schedule, Schedule) else ()

    def check(self, num_instances: int) -> None:
        """Raise ``ValueError`` where this world does not fit a cluster of so many instances."""
        delays = self.network_delay_s
        if isinstance(delays, Sequence) and len(delays) != num_instances:
            raise ValueError(
                f"network_delay_s has {len(delays)} values, the cluster {num_instances} instances: give one"
                " number for all or one for each"
            )
        for instance in self.absent:
            if not 0 <= instance < num_instances:
                raise ValueError(f"absent names instance {instance}, the cluster has {num_instances}")
        if isinstance(self.schedule, Schedule):
            self.schedule.check(num_instances, self.absent)


def _event(given: WorldEvent | Mapping[str, Any], name: str) -> WorldEvent:
    if isinstance(given, WorldEvent):
        given = given.row()
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{name} is {given!r}; write a mapping with at_s, instance, what (and factor for slow, lag_s for"
            " lag_scrapes)"
        )
    what = given.get("what")
    if not isinstance(what, str) or what not in _CHANGES:
        raise ValueError(f"{name}: what is {what!r}, use one of {', '.join(_CHANGES)}")
    wanted = {"at_s", "instance", "what"} | ({_AMOUNTS[what]} if what in _AMOUNTS else set())
    if set(given) != wanted:
        wrong = ", ".join(sorted(str(key) for key in wanted ^ set(given)))
        raise ValueError(f"{name}: {what} takes {', '.join(sorted(wanted))}; missing or too much: {wrong}")
    at_s, instance, factor = given["at_s"], given["instance"], given.get("factor", 1.0)
    if not _is_number(at_s) or not 0.0 <= at_s < inf:
        raise ValueError(f"{name}: at_s is {at_s!r}, it must be a number of seconds from 0")
    if not _is_whole(instance) or instance < 0:
        raise ValueError(f"{name}: instance is {instance!r}, it must be a whole number from 0")
    if not _is_number(factor) or not 1.0 <= factor <= MAX_SLOWDOWN:
        raise ValueError(f"{name}: factor is {factor!r}, it must lie in [1, {MAX_SLOWDOWN:g}]")
    lag_s = given.get("lag_s", 0.0)
    _check_time(f"{name}: lag_s", lag_s, _MOST_S["scrape_lag_s"])
    return WorldEvent(float(at_s), int(instance), what, float(factor), float(lag_s))


def _check_time(name: str, value: Any, most_s: float) -> None:
    if not _is_number(value) or not 0.0 <= value <= most_s:
        raise ValueError(f"{name} is {value!r}, it must be a number of seconds from 0 to {most_s:,.0f}")


def _is_number(value: Any) -> bool:
    """Whether this is a number that a float holds."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
