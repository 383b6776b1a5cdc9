"""Consistent hashing of sessions."""

from __future__ import annotations

from bisect import bisect
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from agents.export.runtime import ring_position
from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, Memory, whole
from agents.policy import Judgement, Look
from envs.observation import NUM_SENT_SINCE_SCRAPE, SESSION_KEY


class SessionHash(Heuristic):
    """One session, one instance: ``session`` of vllm-project/production-stack at a6c01db (2026-08-05).

    Rule: a ring of 160 points per instance (vllm-router's number; production-stack leaves it to uhashring);
    a session belongs to the next point whose instance is valid, so that only the sessions of an instance
    that leaves move (and a prompt too long for its instance moves its session). Requests without session
    go to the lowest request rate. That rate is over 60 s there; here ``num_sent_since_scrape`` stands in,
    random among ties (the router takes the first of equal rates, which hardly occur among its floats).

    An instance's place on the ring is that of its index (its URL there): the choice for a session does not
    move along when rows are shuffled.

    Args:
        num_points: points on the ring per instance.
    """

    kind: ClassVar[Kind] = "session"
    memory: ClassVar[Memory] = "session"

    def __init__(self, num_points: int = 160) -> None:
        self.num_points = whole("num_points", num_points, 1)

    def recall(self, candidates: Candidates) -> int:
        """Where the session stands on the ring."""
        return ring_position(f"session {int(candidates.request[SESSION_KEY])}")

    def costs(self, candidates: Candidates) -> Array:
        """Price as ``settle`` says."""
        return self.settle(candidates, self._elsewhere(candidates), candidates.request[SESSION_KEY] >= 0)

    def settle(self, candidates: Candidates, elsewhere: Array, has_session: Any) -> Array:
        """Price the session's instance 0 and others 1; without session, by requests sent.

        Args:
            candidates: Traced or not.
            elsewhere: 0 for the session's instance, 1 for others, ``[num_valid]``; without session anything.
            has_session: A bool.
        """
        self.note("without_session", ~has_session)
        return np.where(has_session, elsewhere, candidates.column(NUM_SENT_SINCE_SCRAPE))

    def _elsewhere(self, candidates: Candidates) -> Array:
        # Points of instances beyond the last valid one belong to nobody, so the ring need not have them.
        positions, owners = _ring(int(candidates.indices[-1]) + 1, self.num_points)
        valid = candidates.indices.tolist()
        place = bisect(positions, candidates.memory)
        while owners[place % len(owners)] not in valid:
            place += 1
        owner = owners[place % len(owners)]
        return np.array([float(index != owner) for index in valid])

    def export(self, look: Look) -> Judgement:
        """The same without a search: of all points, the next one whose instance is valid."""
        positions, owners = (np.array(part) for part in _ring(look.max_instances, self.num_points))
        mask = np.concatenate([look.mask, np.zeros(look.max_instances, np.bool_)])
        turn_on = np.arange(len(positions))
        places = np.where(positions <= look.memory, turn_on + len(positions), turn_on)
        places = np.where(mask[owners], places, 2 * len(positions))
        traced_owners = np.zeros_like(places) + owners  # a plain array takes no traced index
        owner = traced_owners[places.argmin()]
        candidates = Candidates(look.instances.astype(np.float64), look.request, look.indices, look.memory)
        has_session = look.request[SESSION_KEY] >= 0
        costs = self.settle(candidates, (look.indices != owner).astype(np.float64), has_session)
        return Judgement(-costs, self.chances(costs, candidates))


@lru_cache(maxsize=64)
def _ring(num_instances: int, num_points: int) -> tuple[list[int], list[int]]:
    """Positions in ascending order, and whose each is."""
    points = sorted(
        (ring_position(f"instance {index} point {point}"), index)
        for index in range(num_instances)
        for point in range(num_points)
    )
    return [position for position, _ in points], [index for _, index in points]
