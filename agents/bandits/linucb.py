"""LinUCB (Li et al. 2010) with one linear model shared by all instances."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.bandits.checkpoint import require_rng
from agents.bandits.choice import best_instances, pick, share_of_best
from agents.bandits.linear_bandit import LinearBandit
from agents.bandits.linear_model import contexts_of
from agents.hyperparameters import check_not_negative
from agents.policy import Decision, Judgement, Look, valid_instances
from envs.observation import Observation, encode

TIE_TOLERANCE = 1e-9


class LinUCB(LinearBandit):
    """Chooses the greatest expected reward plus ``alpha`` standard deviations; ties are broken at random.

    The reward is -TTFT in seconds. The propensity is 1, shared by tied instances.

    Args:
        alpha: weight of the bonus, in seconds.
        ridge: precision of the weights before the first sample.
        forgetting: weight of the past per sample, in (0, 1]; 1 remembers all.
        max_ttft_s: longer TTFTs are learned as this one.
        max_pending: decisions remembered while their outcome is not known.
    """

    kind: ClassVar[str] = "linucb"

    def __init__(
        self,
        alpha: float = 0.3,
        ridge: float = 1.0,
        forgetting: float = 1.0,
        max_ttft_s: float = 15.0,
        max_pending: int = 100_000,
    ) -> None:
        check_not_negative(alpha=alpha)
        super().__init__(ridge, forgetting, max_ttft_s, max_pending)
        self.alpha = alpha

    def act(self, observation: Observation) -> Decision:
        """Choose the instance of the greatest upper confidence bound."""
        rng = require_rng(self._rng)
        valid = valid_instances(observation)
        rows = encode(observation["instances"], observation["request"], observation["mask"])
        scores = np.full(len(rows), -np.inf)
        scores[valid] = self._bounds(rows)[valid]
        best = best_instances(scores, valid, TIE_TOLERANCE)
        propensities = np.zeros(len(rows))
        propensities[best] = 1.0 / len(best)
        instance = pick(best, rng)
        self._pending.remember(instance, rows[instance])
        return Decision(instance, propensities, scores)

    def export(self, look: Look) -> Judgement:
        """Judge traced instances; see ``agents.policy.Exportable``."""
        bounds = self._bounds(look.encoded)
        return Judgement(bounds, share_of_best(bounds, TIE_TOLERANCE))

    def _bounds(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Upper confidence bound of each row."""
        contexts = contexts_of(rows)
        mean, whitening = self._model.posterior()
        whitened = contexts @ whitening
        deviations = np.sqrt(np.einsum("ij,ij->i", whitened, whitened))
        bounds: NDArray[np.float64] = contexts @ mean + self.alpha * deviations
        return bounds
