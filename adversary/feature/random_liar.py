"""Chance as an attacker: what every other one must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adversary.threat import Knob, Values
from envs.observation import Observation


class RandomLiar:
    """Wants values uniform within their bounds, drawn anew at each step.

    Args:
        knobs: Of the threat model.
        seed: Which of its attacks on an episode; each is another draw.
    """

    def __init__(self, knobs: Sequence[Knob], seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}, it must not be negative")
        self._low = np.array([knob.low for knob in knobs])
        self._range = np.array([knob.high for knob in knobs]) - self._low
        self.seed = seed
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng([self.seed, int(rng.integers(2**63))])

    def choose(self, observation: Observation, now_s: float) -> Values:
        """Draw."""
        if self._rng is None:
            raise RuntimeError("RandomLiar: call reset(rng) before choose")
        values: Values = self._low + self._range * self._rng.random(len(self._low))
        return values
