"""What was trained with Stable-Baselines3, as a routing policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.policy import Decision, Judgement, Look, valid_instances
from agents.rl.network import ArrayScores, ScoreNetwork
from envs.feedback import Feedback
from envs.observation import Observation, encode


class Sb3Policy:
    """Routes to the instance that a trained network scores highest; any number of instances."""

    def __init__(self, network: ScoreNetwork) -> None:
        self.network = network
        """For those who need its gradient."""
        self._score = ArrayScores(network)

    def reset(self, rng: np.random.Generator) -> None:
        """Do nothing: this policy has no memory and leaves nothing to chance."""

    def act(self, observation: Observation) -> Decision:
        """Decide. Raises ``ValueError`` where all instances are masked or a feature is not finite."""
        valid = valid_instances(observation)
        mask = observation["mask"]
        encoded = encode(observation["instances"], observation["request"], mask)
        valid_scores = self._score(encoded[valid]).astype(np.float64)
        best = int(valid_scores.argmax())
        if not np.isfinite(valid_scores[best]):
            raise ValueError(f"the network's scores are {valid_scores}: its weights are damaged or diverged")

        scores = np.full(len(mask), -np.inf)
        scores[valid] = valid_scores
        propensities = np.zeros(len(mask))
        propensities[valid[best]] = 1.0
        return Decision(int(valid[best]), propensities, scores)

    def export(self, look: Look) -> Judgement:
        """Judge traced instances; see ``agents.policy.Exportable``."""
        scores = self._score(look.encoded).astype(np.float64)
        places = np.ones_like(look.indices).cumsum() - 1
        return Judgement(scores, (places == scores.argmax()).astype(np.float64))

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Do nothing: this policy is trained beforehand."""

    def counters(self) -> Mapping[str, int]:
        """None: each decision is by the rule."""
        return {}
