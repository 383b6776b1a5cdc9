"""The contract of everything that chooses how a victim is deceived."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from adversary.threat import Values
from envs.observation import Observation


class Liar(Protocol):
    """Chooses the knobs of a ``FeatureThreat`` before each decision of the victim."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode. ``rng`` is its only chance."""
        ...

    def choose(self, observation: Observation, now_s: float) -> Values:
        """The wanted values ``[num_knobs]``, finite; what is not allowed of them is not done.

        ``observation`` is the true one; the attacker sees all that the router does.
        """
        ...
