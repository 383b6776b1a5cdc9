"""Round robin."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, Memory


class RoundRobin(Heuristic):
    """One after the other: ``roundrobin`` of vllm-project/production-stack at a6c01db (2026-08-05).

    Rule: one counter per set of valid instances; the n-th request of a set goes to its n-th member, modulo
    its size. The members' order is that of the observation's rows (the router sorts URLs), so the choice
    does not move along when rows are shuffled. The router drops all counters once it holds too many sets;
    here they live until ``reset``.
    """

    kind: ClassVar[Kind] = "load"
    memory: ClassVar[Memory] = "turn"

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: count from the first instance again."""
        super().reset(rng)
        self._num_sent: Counter[bytes] = Counter()  # indices of a set, as bytes -> requests

    def recall(self, candidates: Candidates) -> int:
        """Count the request; return how many its set had before."""
        members = candidates.indices.tobytes()
        turn = self._num_sent[members]
        self._num_sent[members] = turn + 1
        return turn

    def costs(self, candidates: Candidates) -> Array:
        """Price by how many turns an instance has to wait."""
        places = np.ones_like(candidates.indices).cumsum() - 1
        return ((places - candidates.memory) % places.size).astype(np.float64)
