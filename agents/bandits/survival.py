"""How much of a match is still cached, learned from what instances found cached.

A router's index remembers what it sent where, and cannot see what was evicted since. An instance's cache is
turned over in (K - held) / throughput seconds: least recently used blocks go first, so that a prefix last
used longer ago than that is gone, and none before: what is found cached is no new content, so that one
turnover takes longer than that. Not sharply: requests come unevenly, and long ones in one go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.hyperparameters import check_positive
from envs.observation import NUM_KV_CACHE_TOKENS, PREFIX_AGE_S, RECENT_TOKENS_PER_S

SAFE = 1.0
"""Turnovers up to which everything is left."""
LEAST_FREE = 0.1
"""Share of the cache that is taken to be free for prefixes at least."""


def turnovers_of(instances: Any, num_held_tokens: Any) -> Any:
    """How often the cache was turned over since the match was last used, ``[num_instances]``.

    Args:
        instances: Raw features, ``[num_instances, num_instance_features]``; these and the next may be traced.
        num_held_tokens: By the requests under way (``held_tokens``), ``[num_instances]``.
    """
    capacity = np.maximum(instances[:, NUM_KV_CACHE_TOKENS], 1.0)
    free = np.maximum(capacity - num_held_tokens, LEAST_FREE * capacity)
    return instances[:, PREFIX_AGE_S] * instances[:, RECENT_TOKENS_PER_S] / free


class Survival:
    """Share of a match left after so many turnovers: ``1 / (1 + exp(offset) * (turnovers - SAFE)^slope)``.

    A logistic regression on the log of the turnovers beyond ``SAFE``, learned by online Newton steps from a
    prior that counts as so many matches.

    Args:
        half_turnovers: After which half is left, before the first sample; more than ``SAFE``.
        slope: How sharply, before the first sample.
        prior_matches: Weight of the prior.
    """

    def __init__(self, half_turnovers: float = 2.0, slope: float = 2.0, prior_matches: float = 20.0) -> None:
        check_positive(slope=slope, prior_matches=prior_matches)
        if not SAFE < half_turnovers < float("inf"):
            raise ValueError(f"half_turnovers is {half_turnovers}, it must be a finite number above {SAFE}")
        self.weights = np.array([-slope * np.log(half_turnovers - SAFE), slope])
        self.precision = 0.25 * prior_matches * np.eye(2)

    def share(self, turnovers: Any) -> Any:
        """Share that is left, ``[...]``; may be traced."""
        offset, slope = self.weights.tolist()
        return 1.0 / (1.0 + np.exp(offset + slope * _log(turnovers)))

    def update(self, turnovers: float, share: float) -> None:
        """Learn that so much was left, in [0, 1]."""
        context: NDArray[np.float64] = np.array([1.0, float(_log(np.float64(turnovers)))])
        expected = float(self.share(np.float64(turnovers)))
        self.precision += max(expected * (1.0 - expected), 0.01) * np.multiply.outer(context, context)
        self.weights -= np.linalg.solve(self.precision, context) * (share - expected)
        self.weights[1] = max(self.weights[1], 0.1)  # an older match is never worth more

    def state(self) -> dict[str, Any]:
        """Everything, in arrays."""
        return {"weights": self.weights.copy(), "precision": self.precision.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self.weights = np.array(state["weights"], np.float64).reshape(2)
        self.precision = np.array(state["precision"], np.float64).reshape(2, 2)


def _log(turnovers: Any) -> Any:
    """Logarithm of those beyond ``SAFE`` within ±7: 0.001 are none, 1000 all; traced as log1p."""
    return np.log1p(np.minimum(np.maximum(turnovers - SAFE, 1e-3), 1e3) - 1.0)
