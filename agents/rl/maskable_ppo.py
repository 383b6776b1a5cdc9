"""Proximal policy optimisation with masked actions, by sb3-contrib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.hyperparameters import check_counts, check_not_negative, check_positive, check_range
from agents.rl.actor import GAIN, IMITATION, PPO, actor_of
from agents.rl.network import ScoreNetwork, ValueNetwork, shape_of
from agents.rl.sb3_policy import Sb3Policy
from agents.rl.training import MakeEnv, Progress, train
from envs.observation import ENCODED_NAMES


class MaskablePpoAgent:
    """Trains with MaskablePPO; the hyperparameters are told of in ``conf/agent/maskable_ppo.yaml``."""

    def __init__(
        self,
        *,
        total_timesteps: int,
        num_envs: int,
        learning_rate: float,
        n_steps: int,
        batch_size: int,
        n_epochs: int,
        gamma: float,
        gae_lambda: float,
        clip_range: float,
        ent_coef: float,
        vf_coef: float,
        max_grad_norm: float,
        reward_scale: float,
        reward_limit: float,
        instance_hidden: Sequence[int],
        head_hidden: Sequence[int],
        attention_heads: int,
        warm_start: str | None,
        critic_timesteps: int,
    ) -> None:
        check_counts(
            total_timesteps=total_timesteps,
            num_envs=num_envs,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
        )
        check_positive(
            learning_rate=learning_rate,
            clip_range=clip_range,
            max_grad_norm=max_grad_norm,
            reward_scale=reward_scale,
            reward_limit=reward_limit,
        )
        check_range(0, 1, gamma=gamma, gae_lambda=gae_lambda)
        check_range(0, 100, ent_coef=ent_coef, vf_coef=vf_coef)
        check_not_negative(critic_timesteps=critic_timesteps)
        if critic_timesteps and not vf_coef:
            raise ValueError(
                f"critic_timesteps is {critic_timesteps}, but by a vf_coef of 0 the critic learns nothing"
            )
        if n_steps * num_envs % batch_size:
            raise ValueError(
                f"batch_size is {batch_size}, it must divide n_steps * num_envs, {n_steps * num_envs}"
            )
        self.total_timesteps = total_timesteps
        self.num_envs = num_envs
        self.reward_scale, self.reward_limit = reward_scale, reward_limit
        self.rollout_timesteps = self.report_timesteps = n_steps * num_envs
        self._warm_start, self._critic_timesteps = warm_start, critic_timesteps
        self._network = shape_of(instance_hidden, head_hidden, attention_heads)
        self._hyperparameters: dict[str, Any] = {
            "learning_rate": learning_rate,
            "n_steps": n_steps,
            "batch_size": batch_size,
            "n_epochs": n_epochs,
            "gamma": gamma,
            "gae_lambda": gae_lambda,
            "clip_range": clip_range,
            "ent_coef": ent_coef,
            "vf_coef": vf_coef,
            "max_grad_norm": max_grad_norm,
        }

    def learn(
        self,
        make_env: MakeEnv,
        seed: int,
        directory: Path,
        total_timesteps: int | None,
        checkpoint_every: int,
        progress: Progress,
    ) -> None:
        """Train, from the last checkpoint in ``directory`` if there is one; see ``agents.rl.training``.

        Args:
            make_env: makes the raw environment of a rank, from 0 to ``num_envs`` - 1.
            seed: of weights, environments and draws.
            directory: where ``checkpoint.pt`` lies.
            total_timesteps: over all environments; None: as configured.
            checkpoint_every: timesteps between two checkpoints.
            progress: told the number of timesteps and the metrics after each rollout.
        """
        total = self.total_timesteps if total_timesteps is None else total_timesteps
        train(self, make_env, seed, directory, total, checkpoint_every, progress, self._take_up)

    def policy(self, directory: Path) -> Sb3Policy:
        """The greedy policy of the directory's last checkpoint."""
        return Sb3Policy(ScoreNetwork.from_state(actor_of(directory, [PPO])))

    def run(self) -> Mapping[str, Any]:
        """What must not change between a run and its resumption."""
        return {
            "algorithm": PPO,
            "num_envs": self.num_envs,
            "reward_scale": self.reward_scale,
            "reward_limit": self.reward_limit,
            "warm_start": self._warm_start,
            "critic_timesteps": self._critic_timesteps,
            **self._network,
            **self._hyperparameters,
        }

    def build(self, envs: VecEnv, total_timesteps: int) -> FleetPpo:
        """An untrained model."""
        policy_kwargs = {"net_arch": self._network, "features_extractor_class": WholeObservation}
        model = FleetPpo(
            FleetActorCritic, envs, policy_kwargs=policy_kwargs, device="cpu", **self._hyperparameters
        )
        model.critic_timesteps = self._critic_timesteps
        return model

    def _take_up(self, model: FleetPpo) -> None:
        """Begin with the actor that another run trained, if so configured."""
        if self._warm_start is None:
            return
        actor: Any = model.policy.mlp_extractor.actor
        weights = actor_of(Path(self._warm_start), [IMITATION, PPO])
        if _shapes(weights) != _shapes(actor.state_dict()):
            raise ValueError(
                f"warm_start is {self._warm_start}, whose network has another shape: set instance_hidden,"
                " head_hidden and attention_heads as that run has them (config.yaml)"
            )
        actor.load_state_dict(weights)

    def state(self, model: MaskablePPO) -> dict[str, Any]:
        """All that a segment leaves to the next."""
        return {
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "num_updates": model._n_updates,
        }

    def load_state(self, model: MaskablePPO, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model._n_updates = state["num_updates"]


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: held.shape for name, held in weights.items()}


class FleetPpo(MaskablePPO):  # type: ignore[misc]
    """sb3-contrib's PPO, whose actor waits for its critic."""

    critic_timesteps: int
    """Timesteps in which the critic alone learns. One that knows nothing yet would spoil a good actor."""

    def train(self) -> None:
        """Learn from a rollout."""
        self.policy.mlp_extractor.actor.requires_grad_(self.num_timesteps > self.critic_timesteps)
        super().train()


class WholeObservation(BaseFeaturesExtractor):
    """Hands the observation on as it is: the network wants instances and mask apart."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observation: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the observation."""
        return observation


class ActorCritic(nn.Module):
    """Actor and critic without shared layers, in the shape that SB3 calls an MLP extractor."""

    def __init__(self, **shape: Any) -> None:
        super().__init__()
        self.actor = ScoreNetwork(len(ENCODED_NAMES), **shape, gain=GAIN)
        self.critic = ValueNetwork(len(ENCODED_NAMES), **shape)

    def forward(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[batch, max_instances]`` and values ``[batch, 1]``."""
        return self.forward_actor(observation), self.forward_critic(observation)

    def forward_actor(self, observation: dict[str, Tensor]) -> Tensor:
        """Logits, not yet masked."""
        logits: Tensor = self.actor(observation["instances"], observation["mask"])
        return logits

    def forward_critic(self, observation: dict[str, Tensor]) -> Tensor:
        """Values."""
        value: Tensor = self.critic(observation["instances"], observation["mask"])
        return value


class FleetActorCritic(MaskableActorCriticPolicy):  # type: ignore[misc]
    """SB3's policy over ``ActorCritic``."""

    def _build(self, lr_schedule: Schedule) -> None:
        shape: Any = self.net_arch
        self.mlp_extractor = ActorCritic(**shape)  # type: ignore[assignment]
        self.action_net = nn.Identity()  # type: ignore[assignment]
        self.value_net = nn.Identity()  # type: ignore[assignment]
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)
