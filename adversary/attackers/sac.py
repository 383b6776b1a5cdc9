"""An attacker that learns in closed loop with its victim off policy: SAC by Stable-Baselines3.

It learns from every episode so far, over and over. It is for attacks on the world, of few steps an episode:
on the hundreds of decisions of a deceived router, whose harm comes late, PPO finds more in as many episodes.
"""

from __future__ import annotations

from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv

from adversary.attackers.closed_loop import ClosedLoop


class Sac(ClosedLoop):
    """Trains an attacker.

    Args:
        num_evaluations: As of ``ClosedLoop``, as are the next two.
        episodes_per_update: Between two updates; so many are random at first.
        learning_rate: Of Adam.
        gradient_steps: Of an update.
    """

    def __init__(
        self,
        num_evaluations: int,
        episodes_per_update: int = 5,
        learning_rate: float = 1e-3,
        gradient_steps: int = 200,
    ) -> None:
        super().__init__(num_evaluations, episodes_per_update, learning_rate)
        if gradient_steps < 1:
            raise ValueError(f"gradient_steps is {gradient_steps}, it must be at least 1")
        self.gradient_steps = gradient_steps

    def model(self, envs: VecEnv, steps_per_episode: int) -> SAC:
        """SAC."""
        num_steps = steps_per_episode * self.episodes_per_update
        return SAC(
            "MlpPolicy",
            envs,
            learning_rate=self.learning_rate,
            buffer_size=steps_per_episode * self.num_evaluations,
            learning_starts=num_steps,
            train_freq=num_steps,
            gradient_steps=self.gradient_steps,
            ent_coef=0.0,  # a bonus for chance would outweigh the harm of a single step
            use_sde=True,
            sde_sample_freq=steps_per_episode,
            policy_kwargs={"net_arch": [64, 64]},
            device="cpu",
        )
