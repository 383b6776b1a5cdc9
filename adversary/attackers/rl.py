"""An attacker that learns in closed loop with its victim: PPO by Stable-Baselines3.

Exploration is state-dependent (gSDE) and held over an episode: an attacker whose every step is random by
itself averages out, and a budget on slopes smooths away the rest.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from adversary.attackers.found import Found
from adversary.trace import AttackTrace
from agents.rl.randomness import own_randomness, seed_global_generators


class _Episodes(BaseCallback):
    """Keeps the worst episode, and ends the training after so many."""

    def __init__(self, found: Found[AttackTrace], num_episodes: int) -> None:
        super().__init__()
        self._found, self._num_episodes = found, num_episodes
        self._harm = 0.0

    def _on_step(self) -> bool:
        self._harm += float(self.locals["rewards"][0])
        if self.locals["dones"][0]:
            self._found.take(self.locals["infos"][0]["trace"], self._harm)
            self._harm = 0.0
        return len(self._found.curve) < self._num_episodes


def learn(
    env: gym.Env[Any, Any],
    num_episodes: int,
    steps_per_episode: int,
    seed: int,
    episodes_per_update: int = 5,
    learning_rate: float = 1e-3,
    n_epochs: int = 20,
    log_std_init: float = -0.5,
    hold_noise: bool = True,
) -> tuple[PPO, Found[AttackTrace]]:
    """Train an attacker for ``num_episodes`` of its victim's.

    Args:
        env: ``RouteGym/FeatureAdversary-v0`` or ``RouteGym/WorldAdversary-v0``; the sum of an episode's
            rewards is its harm, and the last ``info`` has its ``trace``.
        num_episodes: Evaluations of the victim that may be spent.
        steps_per_episode: Of the environment.
        seed: All chance.
        episodes_per_update: Between two updates of the network.
        learning_rate: Of Adam.
        n_epochs: Passes over the episodes of an update.
        log_std_init: Logarithm of the first exploration's spread.
        hold_noise: Whether exploration is held over an episode.

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
            use_sde=hold_noise,
            sde_sample_freq=steps_per_episode if hold_noise else -1,
            policy_kwargs={"log_std_init": log_std_init, "net_arch": [64, 64]},
            device="cpu",
        )
        updates = -(-num_episodes // episodes_per_update)
        model.learn(updates * model.n_steps, _Episodes(found, num_episodes))
    return model, found
