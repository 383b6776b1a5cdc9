"""What was trained with Stable-Baselines3 in ``RouteGym/FeatureAdversary-v0``, as a liar."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from adversary.feature.sight import Sight
from adversary.feature.threat import FeatureThreat
from adversary.threat import Projector, Values
from envs.observation import Observation


class Sb3Liar:
    """Wants what a model predicts, without chance.

    Args:
        model: Trained in the environment, with this threat and number of instances.
        threat: What is allowed.
        num_instances: Of the fleet.

    Raises:
        ValueError: The model's spaces are those of another threat or fleet.
    """

    def __init__(self, model: BaseAlgorithm, threat: FeatureThreat, num_instances: int) -> None:
        knobs = threat.knobs(num_instances)
        self._model = model
        self._sight = Sight(knobs, num_instances)
        self._projector = Projector(knobs, threat.budget)  # says what the true one makes of its wishes
        expected = self._sight.space.shape, (len(knobs),)
        held = model.observation_space.shape, model.action_space.shape  # type: ignore[union-attr]
        if held != expected:
            raise ValueError(
                f"the model sees and gives arrays of shapes {held}, this threat model on {num_instances}"
                f" instances has {expected}: train it there"
            )

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._projector.reset()

    def choose(self, observation: Observation, now_s: float) -> Values:
        """What the model predicts."""
        sight = self._sight.look(observation, self._projector.values)
        action, _ = self._model.predict(sight, deterministic=True)
        wanted = self._sight.units.values(action)
        self._projector.step(wanted)
        return wanted
