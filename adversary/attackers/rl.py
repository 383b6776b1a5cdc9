"""An attacker that learns in closed loop with its victim: PPO by Stable-Baselines3.

Exploration is state-dependent (gSDE) and held over an episode: an attacker whose every step is random by
itself averages out, and a budget on slopes smooths away the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from adversary.attack import MODEL, POSITIONS
from adversary.attackers.attacker import Result
from adversary.attackers.found import Found
from adversary.feature.sb3_liar import Sb3Liar
from adversary.game import FeatureGame, Game
from adversary.threat import UnitPositions
from adversary.trace import AttackTrace
from agents.files import write
from agents.rl.randomness import own_randomness, seed_global_generators


class Rl:
    """Trains an attacker.

    Of an attack on the world the worst episode is kept, as it was played; of one on features the trained
    attacker, without its exploration, which is evaluated by itself in the last of the episodes.

    Args:
        num_evaluations: Episodes of the victim that may be spent; more than ``episodes_per_update``.
        episodes_per_update: Between two updates of the network.
        learning_rate: Of Adam.
        n_epochs: Passes over the episodes of an update.
        log_std_init: Logarithm of the first exploration's spread.
    """

    is_targeted = True

    def __init__(
        self,
        num_evaluations: int,
        episodes_per_update: int = 5,
        learning_rate: float = 3e-3,
        n_epochs: int = 20,
        log_std_init: float = 0.0,
    ) -> None:
        if episodes_per_update < 1 or n_epochs < 1 or not learning_rate > 0:
            raise ValueError(
                f"episodes_per_update is {episodes_per_update}, n_epochs {n_epochs} and learning_rate"
                f" {learning_rate}: all must be above 0"
            )
        if num_evaluations <= episodes_per_update:
            raise ValueError(
                f"num_evaluations is {num_evaluations}, it must be more than episodes_per_update,"
                f" {episodes_per_update}: else nothing is learned"
            )
        self.num_evaluations, self.episodes_per_update = num_evaluations, episodes_per_update
        self.learning_rate, self.n_epochs, self.log_std_init = learning_rate, n_epochs, log_std_init

    def unfit(self, game: Game) -> str:
        """It plays any game."""
        return ""

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Train."""
        on_features = isinstance(game, FeatureGame)
        env = game.env()
        try:
            num_updates = (self.num_evaluations - on_features) // self.episodes_per_update
            model, found = learn(
                env,
                num_updates,
                game.num_steps,
                seed,
                self.episodes_per_update,
                self.learning_rate,
                self.n_epochs,
                self.log_std_init,
            )
        finally:
            env.close()
        assert found.best is not None
        if isinstance(game, FeatureGame):
            write(model_file, lambda temporary: _save(model, temporary))
            harm = game.harm_of(Sb3Liar(model, game.threat, game.num_instances))
            curve = (*found.curve, max(harm, found.harm))
            return Result({"kind": MODEL, "file": model_file.name}, harm, curve)
        rows = UnitPositions(game.knobs).positions(found.best.values).tolist()
        return Result({"kind": POSITIONS, "rows": rows}, found.harm, tuple(found.curve))


def _save(model: PPO, path: Path) -> None:
    with path.open("wb") as file:
        model.save(file)


class _Episodes(BaseCallback):
    """Keeps the worst episode."""

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


def learn(
    env: gym.Env[Any, Any],
    num_updates: int,
    steps_per_episode: int,
    seed: int,
    episodes_per_update: int,
    learning_rate: float,
    n_epochs: int,
    log_std_init: float,
) -> tuple[PPO, Found[AttackTrace]]:
    """Train an attacker for ``num_updates`` times ``episodes_per_update`` episodes of its victim's.

    Args:
        env: ``RouteGym/FeatureAdversary-v0`` or ``RouteGym/WorldAdversary-v0``; the sum of an episode's
            rewards is its harm, and the last ``info`` has its ``trace``.
        num_updates: Of the network.
        steps_per_episode: Of the environment.
        seed: All chance.
        episodes_per_update: Between two updates.
        learning_rate: Of Adam.
        n_epochs: Passes over the episodes of an update.
        log_std_init: Logarithm of the first exploration's spread.

    Returns:
        The trained attacker, and the worst of its episodes, exploration included.
    """
    found: Found[AttackTrace] = Found()
    with own_randomness():
        seed_global_generators(np.random.SeedSequence(seed))
        envs = DummyVecEnv([lambda: env])
        envs.seed(seed)
        model = PPO(
            "MlpPolicy",
            envs,
            learning_rate=learning_rate,
            n_steps=steps_per_episode * episodes_per_update,
            batch_size=steps_per_episode,
            n_epochs=n_epochs,
            gamma=1.0,  # the harm of an episode is the plain sum
            gae_lambda=0.95,
            use_sde=True,
            sde_sample_freq=steps_per_episode,
            policy_kwargs={"log_std_init": log_std_init, "net_arch": [64, 64]},
            device="cpu",
        )
        model.learn(num_updates * model.n_steps, _Episodes(found))
    return model, found
