"""Linear Thompson sampling (Agrawal & Goyal 2013) with one model shared by all instances."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.bandits.checkpoint import require_rng
from agents.bandits.linear_bandit import LinearBandit
from agents.bandits.linear_model import contexts_of
from agents.hyperparameters import check_counts, check_not_negative
from agents.policy import Decision, valid_instances
from envs.observation import Observation, encode


class ThompsonSampling(LinearBandit):
    """Draws weights from the posterior and chooses the instance that is best under them.

    The probability of an instance has no closed form. So ``num_draws`` weights are drawn, each draw votes
    for its best instance, and one draw, picked uniformly, decides. The choice is distributed as in Thompson
    sampling; the propensities are the votes' shares: exact given the draws, estimates of the probability
    without them, and 0 for an instance without a vote. The reward is -TTFT in seconds.

    Args:
        scale_s: the posterior's standard deviation is multiplied by it: the noise of a TTFT, in seconds.
        num_draws: weights drawn per decision.
        ridge: precision of the weights before the first sample.
        forgetting: weight of the past per sample, in (0, 1]; 1 remembers all.
        max_ttft_s: longer TTFTs are learned as this one.
        max_pending: decisions remembered while their outcome is not known.
    """

    kind: ClassVar[str] = "thompson"

    def __init__(
        self,
        scale_s: float = 0.3,
        num_draws: int = 32,
        ridge: float = 1.0,
        forgetting: float = 1.0,
        max_ttft_s: float = 15.0,
        max_pending: int = 100_000,
    ) -> None:
        check_not_negative(scale_s=scale_s)
        check_counts(num_draws=num_draws)
        super().__init__(ridge, forgetting, max_ttft_s, max_pending)
        self.scale_s, self.num_draws = scale_s, num_draws

    def act(self, observation: Observation) -> Decision:
        """Choose the best instance under weights drawn from the posterior; its scores are those draws'."""
        rng = require_rng(self._rng)
        valid = valid_instances(observation)
        rows = encode(observation["instances"], observation["request"], observation["mask"])
        contexts = contexts_of(rows[valid])
        mean, whitening = self._model.posterior()
        noise = rng.standard_normal((self.num_draws, len(mean)))
        draws = (contexts @ mean) + (self.scale_s * noise) @ (contexts @ whitening).T
        # Equal rows draw equal scores: a random order of the instances breaks their ties fairly.
        order = rng.permutation(len(valid))
        votes = order[draws[:, order].round(9).argmax(1)]
        drawn = rng.integers(self.num_draws)
        propensities = np.zeros(len(rows))
        propensities[valid] = np.bincount(votes, minlength=len(valid)) / self.num_draws
        scores = np.full(len(rows), -np.inf)
        scores[valid] = draws[drawn]
        instance = int(valid[votes[drawn]])
        self._pending.remember(instance, rows[instance])
        return Decision(instance, propensities, scores)
