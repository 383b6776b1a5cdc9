"""What was trained with Stable-Baselines3, as a routing policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.policy import Decision, valid_instances
from agents.rl.checkpoint import read_tensors, write_tensors
from agents.rl.network import ArrayScores, ScoreNetwork
from envs.feedback import Feedback
from envs.observation import SCHEMA_HASH, Observation, encode


class Sb3Policy:
    """Routes by the scores of a trained network; any number of instances.

    Args:
        network: the trained network.
        deterministic: True: the instance with the highest score. False: instances are drawn with the
            softmax of the scores, which is the policy that MaskablePPO trained, and has no meaning for DQN.
    """

    def __init__(self, network: ScoreNetwork, deterministic: bool = True) -> None:
        self.network = network
        self.deterministic = deterministic
        self._score = ArrayScores(network)
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = rng
        self._num_not_best = 0

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
        if self.deterministic:
            chosen = best
            propensities[valid[best]] = 1.0
        else:
            weights = np.exp(valid_scores - valid_scores[best])
            cumulated = weights.cumsum()
            propensities[valid] = weights / cumulated[-1]
            chosen = int(cumulated.searchsorted(self._rng.random() * cumulated[-1], side="right"))
        self._num_not_best += chosen != best
        return Decision(int(valid[chosen]), propensities, scores)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Do nothing: this policy is trained beforehand."""

    def counters(self) -> Mapping[str, int]:
        """``num_not_best``: draws of another instance than the one with the highest score."""
        return {"num_not_best": self._num_not_best}

    def save_policy(self, path: Path) -> None:
        """Write the network's weights, and no more."""
        write_tensors(path, {"schema": SCHEMA_HASH, "network": self.network.state_dict()})

    @classmethod
    def load(cls, path: Path, deterministic: bool = True) -> Sb3Policy:
        """Read what ``save_policy`` wrote. Raises ``ValueError`` naming the file where it does not fit."""
        try:
            content = read_tensors(path)
        except ValueError as error:
            raise ValueError(f"{error}: save it anew from its training run") from error
        if content["schema"] != SCHEMA_HASH:
            raise ValueError(
                f"{path} was trained on feature table {content['schema']}, this is table {SCHEMA_HASH}:"
                " train it anew, or check out the version that trained it"
            )
        return cls(ScoreNetwork.from_state(content["network"]), deterministic)
