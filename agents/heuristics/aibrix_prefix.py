"""aibrix's prefix cache routing with a guard on load."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, demote, least, most, within
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT


class AibrixPrefix(Heuristic):
    """``prefix-cache`` of vllm-project/aibrix at e3e10f9 (2026-08-22).

    Rule, r being ``num_in_flight``: if max r - min r > 8, argmin r. Else, of the instances that match at
    all, the longest match (``frac_prefix_hit``) among those with r <= mean + 1 * standard deviation, the
    lower r of equal matches. None: argmin r. Random among ties. Constants as in the code; its README says
    16 and 2. The match is that of this router's view; aibrix's own counts blocks of 4 characters.

    Args:
        imbalance: spread of r beyond which only load counts.
        num_deviations: standard deviations over the mean up to which a match is taken.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, imbalance: float = 8.0, num_deviations: float = 1.0) -> None:
        self.imbalance = within("imbalance", imbalance, 0.0)
        self.num_deviations = within("num_deviations", num_deviations, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests in flight, those that are not the longest acceptable match behind."""
        num_in_flight = candidates.column(NUM_IN_FLIGHT)
        imbalanced = most(num_in_flight) - least(num_in_flight) > self.imbalance
        mean = num_in_flight.sum() / num_in_flight.size
        away = num_in_flight - mean
        limit = mean + self.num_deviations * np.sqrt(away.dot(away) / away.size)
        match = candidates.column(FRAC_PREFIX_HIT) * (num_in_flight <= limit)
        longest = most(match)
        missed = ~imbalanced & (longest <= 0.0)
        self.note("imbalanced", imbalanced)
        self.note("missed", missed)
        return np.where(imbalanced | missed, num_in_flight, demote(num_in_flight, match < longest))
