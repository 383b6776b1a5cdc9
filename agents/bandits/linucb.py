"""LinUCB (Li et al. 2010) with one linear model shared by all instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.bandits.checkpoint import check_header, header, pack_rng, require_rng, unpack_rng
from agents.bandits.choice import best_instances, pick
from agents.bandits.linear_model import LinearModel, contexts_of, reward_of
from agents.bandits.pending import PendingDecisions
from agents.hyperparameters import check_not_negative, check_positive
from agents.policy import Decision, valid_instances
from envs.feedback import Feedback
from envs.observation import ENCODED_NAMES, Observation, encode

TIE_TOLERANCE = 1e-9


class LinUCB:
    """Chooses the greatest expected reward plus ``alpha`` standard deviations; ties are broken at random.

    The reward is -TTFT in seconds. The propensity is 1, shared by tied instances.

    Args:
        alpha: weight of the bonus, in seconds.
        ridge: precision of the weights before the first sample.
        forgetting: weight of the past per sample, in (0, 1]; 1 remembers all.
        max_ttft_s: longer TTFTs are learned as this one.
        max_pending: decisions remembered while their outcome is not known.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        ridge: float = 1.0,
        forgetting: float = 1.0,
        max_ttft_s: float = 15.0,
        max_pending: int = 100_000,
    ) -> None:
        check_not_negative(alpha=alpha)
        check_positive(max_ttft_s=max_ttft_s)
        self.alpha, self.max_ttft_s = alpha, max_ttft_s
        self._model = LinearModel(len(ENCODED_NAMES) + 1, ridge, forgetting)
        self._pending = PendingDecisions(max_pending)
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; the model is kept."""
        self._rng = rng
        self._pending.reset()

    def act(self, observation: Observation) -> Decision:
        """Choose the instance of the greatest upper confidence bound."""
        rng = require_rng(self._rng)
        valid = valid_instances(observation)
        rows = encode(observation["instances"], observation["request"], observation["mask"])
        contexts = contexts_of(rows)
        mean, whitening = self._model.posterior()
        whitened = contexts @ whitening
        bounds = contexts @ mean + self.alpha * np.sqrt(np.einsum("ij,ij->i", whitened, whitened))
        scores = np.full(len(rows), -np.inf)
        scores[valid] = bounds[valid]
        best = best_instances(scores, valid, TIE_TOLERANCE)
        propensities = np.zeros(len(rows))
        propensities[best] = 1.0 / len(best)
        instance = pick(best, rng)
        self._pending.remember(instance, rows[instance])
        return Decision(instance, propensities, scores)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Learn from each decision's own outcome."""
        for feedback in completions:
            row = self._pending.claim(feedback)
            if row is not None:
                self._model.update(contexts_of(row), reward_of(feedback, self.max_ttft_s))

    def counters(self) -> Mapping[str, int]:
        """Feedback that was not learned from and decisions forgotten, since reset."""
        return dict(self._pending.counters)

    def state(self) -> dict[str, Any]:
        """The model, pending decisions, counters and random state."""
        return {
            **header("linucb"),
            "model": self._model.state(),
            "pending": self._pending.state(),
            "rng": pack_rng(self._rng),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        check_header(state, "linucb")
        self._model.load_state(state["model"])
        self._pending.load_state(state["pending"])
        self._rng = unpack_rng(state["rng"])
