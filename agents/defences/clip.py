"""Clip features to the range that they had in clean episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.defences import ranges as ranges_of
from agents.defences.defence import Defence, Flags, Rows
from agents.policy import Policy


class Clip(Defence):
    """Values beyond a feature's range are put on its edge.

    It keeps a learned policy from being led where it was never trained, and cuts inflated values. It is of no
    use against a lie within the range, such as a queue that is said to be empty. Instances that are beyond
    the range together look alike to the policy: fit it to episodes as loaded as are to be served, or
    give it a margin (``agents.defences.ranges``).

    Args:
        policy: What is defended.
        ranges: Feature -> [lowest, highest], or the path of a JSON file of that. Features that are not named
            pass as they are.
    """

    kind = "clip"
    counted = ("clipped",)  # decisions

    def __init__(self, policy: Policy, ranges: dict[str, Sequence[float]] | str) -> None:
        super().__init__(policy)
        self.ranges = ranges_of.load(Path(ranges)) if isinstance(ranges, str) else ranges_of.check(ranges)
        self._columns = [ranges_of.column_of(name) for name in self.ranges]
        self._low, self._high = np.array(list(self.ranges.values()), np.float32).T

    def mend(self, rows: Rows, valid: Flags) -> None:
        """Clip the named features of all instances."""
        before = rows[:, self._columns]
        after = np.clip(before, self._low, self._high)
        rows[:, self._columns] = after
        self._counts["clipped"] += bool(((before != after).any(axis=1) & valid).any())
