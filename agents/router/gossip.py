"""What routers before the same instances tell each other, as JSON: what each counts, and what it sent where.

Instances are told apart by their names. Keys of prefixes are 64-bit numbers, little-endian, in Base64.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.router.desk import Desk
from envs.counts import Counts, none
from envs.sends import MAX_KEYS, Send


class Said(NamedTuple):
    """What a router says."""

    counts: Counts
    sends: list[Send]
    number: int
    """Of the send that will come next: what to ask for the next time."""


def counts_of(desk: Desk, since: int) -> dict[str, Any]:
    """What a router says of itself, with its sends of this number and later."""
    counts, sends = desk.view.counts(desk.fleet.clock.now_s), desk.view.sends
    assert sends is not None
    names = {each.number: each.endpoint.name for each in desk.fleet}
    return {
        "router": desk.identity,
        "instances": {name: counts.instances[number].tolist() for number, name in names.items()},
        "arrivals_per_s": counts.arrivals_per_s,
        "sends": [
            [names[send.instance], base64.b64encode(send.keys.astype("<i8").tobytes()).decode()]
            for send in sends.since(since)
            if send.instance in names
        ],
        "number": sends.number,
    }


def read(said: Any, desk: Desk) -> Said:
    """What another router said, in this one's numbers of instances; others than its own are left out.

    Raises ``ValueError`` where it is not what a router says.
    """
    numbers = {each.endpoint.name: each.number for each in desk.fleet}
    counted = none(desk.fleet.max_instances)
    try:
        if said["router"] == desk.identity:
            raise ValueError("it is this router itself; leave it out of peers.urls")
        for name, row in said["instances"].items():
            if name in numbers:
                counted.instances[numbers[name]] = _amounts(row, counted.instances.shape[1])
        sends = [Send(numbers[name], _keys(keys)) for name, keys in said["sends"] if name in numbers]
        arrivals_per_s = float(_amounts([said["arrivals_per_s"]], 1)[0])
        return Said(counted._replace(arrivals_per_s=arrivals_per_s), sends, int(said["number"]))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not what a router says ({type(error).__name__}: {error})") from None


def _amounts(row: Any, num: int) -> NDArray[np.float64]:
    amounts = np.asarray(row, np.float64)
    if amounts.shape != (num,) or not np.isfinite(amounts).all() or (amounts < 0).any():
        raise ValueError(f"{num} numbers from 0 were expected, not {str(row)[:100]}")
    return amounts


def _keys(text: str) -> NDArray[np.int64]:
    try:
        keys = np.frombuffer(base64.b64decode(text, validate=True), "<i8")
    except binascii.Error as error:
        raise ValueError(f"keys that are not Base64 ({error})") from None
    if len(keys) > MAX_KEYS:
        raise ValueError(f"{len(keys)} keys of one prompt")
    return keys.astype(np.int64)
