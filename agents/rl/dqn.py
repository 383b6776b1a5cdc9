"""Deep Q-learning, by Stable-Baselines3, with masks.

SB3's DQN knows no masks. Here they are part of the observation and hold everywhere: in the greedy choice, in
exploration, and in the maximum over the next state's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from agents.hyperparameters import check_counts, check_positive, check_range
from agents.rl.checkpoint import NAME, load_checkpoint
from agents.rl.network import ScoreNetwork, shape_of
from agents.rl.sb3_policy import Sb3Policy
from agents.rl.training import MakeEnv, Progress, train
from envs.observation import ENCODED_NAMES, SCHEMA_HASH

Q_NET = "q_net.q_net."
MASKED_VALUE = -1e8
"""Not -inf, which times the 0 of a finished episode would be NaN."""


class DqnAgent:
    """Trains with DQN; the hyperparameters are told of in ``conf/agent/dqn.yaml``."""

    algorithm: ClassVar[str] = "dqn"
    report_timesteps = 1000

    def __init__(
        self,
        *,
        total_timesteps: int,
        num_envs: int,
        learning_rate: float,
        buffer_size: int,
        learning_starts: int,
        batch_size: int,
        train_freq: int,
        gradient_steps: int,
        tau: float,
        target_update_interval: int,
        gamma: float,
        exploration_fraction: float,
        exploration_initial_eps: float,
        exploration_final_eps: float,
        max_grad_norm: float,
        reward_scale: float,
        reward_limit: float,
        instance_hidden: Sequence[int],
        head_hidden: Sequence[int],
        attention_heads: int,
    ) -> None:
        check_counts(
            total_timesteps=total_timesteps,
            num_envs=num_envs,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            target_update_interval=target_update_interval,
        )
        check_positive(
            learning_rate=learning_rate,
            tau=tau,
            exploration_fraction=exploration_fraction,
            max_grad_norm=max_grad_norm,
            reward_scale=reward_scale,
            reward_limit=reward_limit,
        )
        check_range(
            0,
            1,
            tau=tau,
            gamma=gamma,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
        )
        if target_update_interval < num_envs:
            raise ValueError(
                f"target_update_interval is {target_update_interval}, below num_envs, which is {num_envs}"
            )
        self.total_timesteps = total_timesteps
        self.num_envs = num_envs
        self.reward_scale, self.reward_limit = reward_scale, reward_limit
        self.rollout_timesteps = train_freq * num_envs
        self._network = shape_of(instance_hidden, head_hidden, attention_heads)
        self._hyperparameters = {
            "learning_rate": learning_rate,
            "buffer_size": buffer_size,
            "learning_starts": learning_starts,
            "batch_size": batch_size,
            "train_freq": train_freq,
            "gradient_steps": gradient_steps,
            "tau": tau,
            "target_update_interval": target_update_interval,
            "gamma": gamma,
            "exploration_fraction": exploration_fraction,
            "exploration_initial_eps": exploration_initial_eps,
            "exploration_final_eps": exploration_final_eps,
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
            directory: where ``checkpoint.pt`` lies; it holds the replay buffer, too.
            total_timesteps: over all environments; None: as configured.
            checkpoint_every: timesteps between two checkpoints.
            progress: told the number of timesteps and the metrics every 1,000 timesteps or so.
        """
        total = self.total_timesteps if total_timesteps is None else total_timesteps
        train(self, make_env, seed, directory, total, checkpoint_every, progress)

    def policy(self, directory: Path) -> Sb3Policy:
        """The greedy policy of the directory's last checkpoint."""
        return Sb3Policy(self.network(directory))

    def network(self, directory: Path) -> ScoreNetwork:
        """The Q-network of the directory's last checkpoint."""
        checkpoint = load_checkpoint(directory, {"algorithm": self.algorithm, "schema": SCHEMA_HASH})
        if checkpoint is None:
            raise FileNotFoundError(f"{directory / NAME} does not exist: train first")
        weights = checkpoint["state"]["model"]["policy"]
        q_net = {name.removeprefix(Q_NET): weights[name] for name in weights if name.startswith(Q_NET)}
        return ScoreNetwork.from_state(q_net)

    def run(self) -> Mapping[str, Any]:
        """What must not change between a run and its resumption."""
        return {
            "algorithm": self.algorithm,
            "num_envs": self.num_envs,
            "reward_scale": self.reward_scale,
            "reward_limit": self.reward_limit,
            **self._network,
            **self._hyperparameters,
        }

    def build(self, envs: VecEnv, total_timesteps: int) -> MaskedDqn:
        """An untrained model."""
        make_model, policy = self.classes()
        policy_kwargs = {"net_arch": self._network}
        hyperparameters: dict[str, Any] = self._hyperparameters
        model = make_model(policy, envs, policy_kwargs=policy_kwargs, device="cpu", **hyperparameters)
        model.run_timesteps = total_timesteps
        return model

    def classes(self) -> tuple[type[MaskedDqn], type[FleetDqnPolicy]]:
        """Those of the model and of its policy."""
        return MaskedDqn, FleetDqnPolicy

    def state(self, model: MaskedDqn) -> dict[str, Any]:
        """All that a segment leaves to the next."""
        buffer: Any = model.replay_buffer
        num_filled = buffer.buffer_size if buffer.full else buffer.pos
        return {
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "num_updates": model._n_updates,
            "num_calls": model._n_calls,
            "replay": {name: torch.from_numpy(array[:num_filled]) for name, array in _arrays(buffer).items()},
            "replay_at": buffer.pos,
        }

    def load_state(self, model: MaskedDqn, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model._n_updates = state["num_updates"]
        model._n_calls = state["num_calls"]
        buffer: Any = model.replay_buffer
        for name, array in _arrays(buffer).items():
            saved = state["replay"][name].numpy()
            array[: len(saved)] = saved
            buffer.full = len(saved) == buffer.buffer_size
        buffer.pos = state["replay_at"]


def _arrays(buffer: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a replay buffer, each with its position as first axis."""
    return {
        **{f"observations.{name}": array for name, array in buffer.observations.items()},
        **{f"next_observations.{name}": array for name, array in buffer.next_observations.items()},
        "actions": buffer.actions,
        "rewards": buffer.rewards,
        "dones": buffer.dones,
        "timeouts": buffer.timeouts,
    }


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """The values, ``MASKED_VALUE`` where masked; where all is masked they stay: nothing is chosen there."""
    is_masked = mask == 0
    return values.masked_fill(is_masked & ~is_masked.all(dim=-1, keepdim=True), MASKED_VALUE)


class FleetQNetwork(QNetwork):
    """Q-values of all instances."""

    def __init__(self, net_arch: Any, **kwargs: Any) -> None:
        super().__init__(net_arch=[], **kwargs)
        self.q_net = ScoreNetwork(len(ENCODED_NAMES), **net_arch)  # type: ignore[assignment]

    def forward(self, obs: Any) -> Tensor:
        """Q-values ``[batch, max_instances]``."""
        return masked(self.q_net(obs["instances"], obs["mask"]), obs["mask"])


class FleetDqnPolicy(DQNPolicy):
    """SB3's policy over ``FleetQNetwork``."""

    def make_q_net(self) -> QNetwork:
        """Make a Q-network."""
        return FleetQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None))


class MaskedDqn(DQN):
    """SB3's DQN, exploring among the valid instances alone, in each environment by its own draw."""

    run_timesteps: int
    """Timesteps of the whole run, over all segments; SB3 would anneal exploration within each segment."""

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        observation: Any = self._last_obs
        with torch.no_grad():
            values = self.q_net(obs_as_tensor(observation, self.device))
        is_warm_up = self.num_timesteps < learning_starts
        rate = 1.0 if is_warm_up else self.exploration_schedule(1 - self.num_timesteps / self.run_timesteps)
        mask = observation["mask"]
        drawn = (mask * (1 - np.random.random(mask.shape))).argmax(axis=1)  # noqa: NPY002
        explores = np.random.random(len(mask)) < rate  # noqa: NPY002
        actions = np.where(explores, drawn, values.argmax(dim=1).numpy())
        return actions, actions
