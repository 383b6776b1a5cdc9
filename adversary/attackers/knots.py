"""Attacks over time with few parameters, for searches that can afford few evaluations."""

from __future__ import annotations

import numpy as np

from adversary.threat import Values


class Knots:
    """Straight lines between a few instants, spread evenly from the first step to the last.

    Args:
        num_steps: Steps of the attack.
        num_knobs: Knobs of its threat model.
        num_knots: Instants at which each knob's position is free; 1: constant over time.
    """

    def __init__(self, num_steps: int, num_knobs: int, num_knots: int = 3) -> None:
        if not 1 <= num_knots <= num_steps:
            raise ValueError(
                f"num_knots is {num_knots}, it must be at least 1 and at most {num_steps}, the attack's steps"
            )
        self.num_steps, self.num_knobs, self.num_knots = num_steps, num_knobs, num_knots

    @property
    def num_parameters(self) -> int:
        """Free numbers of an attack."""
        return self.num_knots * self.num_knobs

    def positions(self, parameters: Values) -> Values:
        """From ``[num_parameters]`` to positions ``[num_steps, num_knobs]``, both in [-1, 1]."""
        knots = np.asarray(parameters, np.float64).reshape(self.num_knots, self.num_knobs)
        at = np.linspace(0, self.num_knots - 1, self.num_steps) if self.num_steps > 1 else np.zeros(1)
        low = np.minimum(at.astype(np.int64), max(self.num_knots - 2, 0))
        high = np.minimum(low + 1, self.num_knots - 1)
        share = (at - low)[:, None]
        lines: Values = (1.0 - share) * knots[low] + share * knots[high]
        return lines
