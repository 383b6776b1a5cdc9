"""Uniform random routing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind
from envs.observation import NUM_IN_FLIGHT


class Random(Heuristic):
    """Each valid instance with the same probability: ``random`` of vllm-router, smg, aibrix and others."""

    kind: ClassVar[Kind] = "load"

    def costs(self, candidates: Candidates) -> Array:
        """Price all alike."""
        return np.zeros_like(candidates.column(NUM_IN_FLIGHT))
