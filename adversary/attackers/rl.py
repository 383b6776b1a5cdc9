"""An attacker that learns in closed loop with its victim: PPO by Stable-Baselines3.

Exploration is state-dependent (gSDE) and held over an episode: an attacker whose every step is random by
itself averages out, and a budget on slopes smooths away the rest.
"""

from __future__ import annotations

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from adversary.attackers.closed_loop import ClosedLoop


class Rl(ClosedLoop):
    """Trains an attacker.

    Args:
        num_evaluations: As of ``ClosedLoop``, as are the next two.
        episodes_per_update: Between two updates of the network.
        learning_rate: Of Adam.
        n_epochs: Passes over the episodes of an update.
        log_std_init: Logarithm of the first exploration's spread.
    """

    def __init__(
        self,
        num_evaluations: int,
        episodes_per_update: int = 5,
        learning_rate: float = 3e-3,
        n_epochs: int = 20,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(num_evaluations, episodes_per_update, learning_rate)
        if n_epochs < 1:
            raise ValueError(f"n_epochs is {n_epochs}, it must be at least 1")
        self.n_epochs, self.log_std_init = n_epochs, log_std_init

    def model(self, envs: VecEnv, steps_per_episode: int) -> PPO:
        """PPO."""
        return PPO(
            "MlpPolicy",
            envs,
            learning_rate=self.learning_rate,
            n_steps=steps_per_episode * self.episodes_per_update,
            batch_size=steps_per_episode,
            n_epochs=self.n_epochs,
            gamma=1.0,  # the harm of an episode is the plain sum
            gae_lambda=0.95,
            use_sde=True,
            sde_sample_freq=steps_per_episode,
            policy_kwargs={"log_std_init": self.log_std_init, "net_arch": [64, 64]},
            device="cpu",
        )
