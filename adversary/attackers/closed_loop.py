"""Attackers that learn in closed loop with their victim, by an algorithm of Stable-Baselines3."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from adversary.attack import MODEL, POSITIONS
from adversary.attackers.attacker import Result
from adversary.attackers.found import Found
from adversary.feature.sb3_liar import Sb3Liar
from adversary.game import FeatureGame, Game
from adversary.threat import UnitPositions
from adversary.trace import AttackTrace
from agents.files import write
from agents.rl.randomness import own_randomness, seed_global_generators


class ClosedLoop(ABC):
    """Trains an attacker.

    Of an attack on the world the worst episode is kept, as it was played; of one on features the trained
    attacker, without its exploration, which is evaluated by itself in the last of the episodes.

    Args:
        num_evaluations: Episodes of the victim that may be spent; more than ``episodes_per_update``.
        episodes_per_update: Between two updates of the network.
        learning_rate: Of Adam.
    """

    is_targeted = True

    def __init__(self, num_evaluations: int, episodes_per_update: int, learning_rate: float) -> None:
        if episodes_per_update < 1 or not learning_rate > 0:
            raise ValueError(
                f"episodes_per_update is {episodes_per_update} and learning_rate {learning_rate}:"
                " both must be above 0"
            )
        if num_evaluations <= episodes_per_update:
            raise ValueError(
                f"num_evaluations is {num_evaluations}, it must be more than episodes_per_update,"
                f" {episodes_per_update}: else nothing is learned"
            )
        self.num_evaluations, self.episodes_per_update = num_evaluations, episodes_per_update
        self.learning_rate = learning_rate

    @abstractmethod
    def model(self, envs: VecEnv, steps_per_episode: int) -> BaseAlgorithm:
        """The algorithm, new."""

    def unfit(self, game: Game) -> str:
        """It plays any game."""
        return ""

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Train."""
        on_features = isinstance(game, FeatureGame)
        env = game.env()
        try:
            num_updates = (self.num_evaluations - on_features) // self.episodes_per_update
            model, found = self._learn(env, num_updates, game.num_steps, seed)
        finally:
            env.close()
        assert found.best is not None
        if isinstance(game, FeatureGame):
            write(model_file, lambda temporary: _save(model, temporary))
            harm = game.harm_of(Sb3Liar(model, game.threat, game.num_instances))
            curve = (*found.curve, max(harm, found.harm))
            algorithm = type(model).__name__
            return Result({"kind": MODEL, "file": model_file.name, "algorithm": algorithm}, harm, curve)
        rows = UnitPositions(game.knobs).positions(found.best.values).tolist()
        return Result({"kind": POSITIONS, "rows": rows}, found.harm, tuple(found.curve))

    def _learn(
        self, env: gym.Env[Any, Any], num_updates: int, steps_per_episode: int, seed: int
    ) -> tuple[BaseAlgorithm, Found[AttackTrace]]:
        """The trained attacker, and the worst of its episodes, exploration included."""
        found: Found[AttackTrace] = Found()
        with own_randomness():
            seed_global_generators(np.random.SeedSequence(seed))
            envs = DummyVecEnv([lambda: env])
            envs.seed(seed)
            envs.action_space.seed(seed)  # SAC begins with actions drawn from it
            model = self.model(envs, steps_per_episode)
            model.learn(num_updates * self.episodes_per_update * steps_per_episode, _Episodes(found))
        return model, found


def _save(model: BaseAlgorithm, path: Path) -> None:
    with path.open("wb") as file:
        model.save(file)


class _Episodes(BaseCallback):
    """Keeps the worst episode: the sum of its rewards is its harm, its last ``info`` has its ``trace``."""

    def __init__(self, found: Found[AttackTrace]) -> None:
        super().__init__()
        self._found = found
        self._harm = 0.0

    def _on_step(self) -> bool:
        self._harm += float(self.locals["rewards"][0])
        if self.locals["dones"][0]:
            self._found.take(self.locals["infos"][0]["trace"], self._harm)
            self._harm = 0.0
        return True
