"""Quantile-regression DQN with masks: learns how the return is distributed, and can mind its worst part.

Dabney, Rowland, Bellemare, Munos: Distributional Reinforcement Learning with Quantile Regression, AAAI 2018.
Which instance is best, in acting and in the targets alike, is judged by the mean over the worst
``frac_worst`` of the return's quantiles, its conditional value at risk: 1 is the mean, as in DQN; 0.01 of 100
quantiles is the lowest alone, what is to be feared once in a hundred times (as the risk-sensitive policies of
Dabney, Ostrovski, Silver, Munos: Implicit Quantile Networks, ICML 2018). A return adds up what many requests
wait: its worst percent is not the P99 of their TTFT, but what leads there.

sb3-contrib's QRDQN knows no masks and always goes by the mean, so this one is our masked DQN with its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor

from agents.hyperparameters import check_counts, check_range
from agents.rl.dqn import DqnAgent, FleetDqnPolicy, FleetQNetwork, MaskedDqn, masked
from agents.rl.sb3_policy import Sb3Policy


class QrDqnAgent(DqnAgent):
    """Trains with QR-DQN; the hyperparameters are told of in ``conf/agent/qr_dqn.yaml``.

    ``frac_worst`` may be another in evaluation than in training.
    """

    algorithm: ClassVar[str] = "qr_dqn"

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
        num_quantiles: int,
        frac_worst: float,
    ) -> None:
        super().__init__(
            total_timesteps=total_timesteps,
            num_envs=num_envs,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            tau=tau,
            target_update_interval=target_update_interval,
            gamma=gamma,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            reward_scale=reward_scale,
            reward_limit=reward_limit,
            instance_hidden=instance_hidden,
            head_hidden=head_hidden,
            attention_heads=attention_heads,
        )
        check_counts(num_quantiles=num_quantiles)
        check_range(2, 1000, num_quantiles=num_quantiles)
        check_range(0, 1, frac_worst=frac_worst)
        self._network |= {"num_quantiles": num_quantiles, "frac_worst": frac_worst}

    def policy(self, directory: Path) -> Sb3Policy:
        """The policy of the directory's last checkpoint, which chooses the best of the worst."""
        network = self.network(directory)
        return Sb3Policy(network.mean_of_first(num_worst(network.num_scores, self._network["frac_worst"])))

    def classes(self) -> tuple[type[MaskedDqn], type[FleetDqnPolicy]]:
        """Those of the model and of its policy."""
        return MaskedQrDqn, FleetQrDqnPolicy


def num_worst(num_quantiles: int, frac_worst: float) -> int:
    """How many quantiles, from the lowest, are that share of all; at least one."""
    return max(1, ceil(num_quantiles * frac_worst - 1e-9))


class FleetQuantileNetwork(FleetQNetwork):
    """Quantiles of the return, and as Q-values the mean of the worst of them."""

    def __init__(self, net_arch: Any, **kwargs: Any) -> None:
        shape = dict(net_arch)
        num_quantiles, frac_worst = shape.pop("num_quantiles"), shape.pop("frac_worst")
        super().__init__(net_arch={**shape, "num_scores": num_quantiles}, **kwargs)
        self._num_worst = num_worst(num_quantiles, frac_worst)

    def quantiles(self, obs: Any) -> Tensor:
        """Of all instances, the lowest first, ``[batch, max_instances, num_quantiles]``."""
        quantiles: Tensor = self.q_net(obs["instances"], obs["mask"])
        return quantiles

    def forward(self, obs: Any) -> Tensor:
        """Q-values ``[batch, max_instances]``."""
        return masked(self.quantiles(obs)[..., : self._num_worst].mean(dim=-1), obs["mask"])


class FleetQrDqnPolicy(FleetDqnPolicy):
    """SB3's policy over ``FleetQuantileNetwork``."""

    def make_q_net(self) -> QNetwork:
        """Make a network."""
        return FleetQuantileNetwork(**self._update_features_extractor(self.net_args, features_extractor=None))


class MaskedQrDqn(MaskedDqn):
    """Our masked DQN, learning quantiles."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Learn from the replay buffer."""
        network: Any = self.q_net
        buffer: Any = self.replay_buffer
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = buffer.sample(batch_size)
            loss = quantile_huber_loss(
                _of(network.quantiles(batch.observations), batch.actions), self._targets(batch)
            )
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/loss", np.mean(losses))

    @torch.no_grad()
    def _targets(self, batch: Any) -> Tensor:
        """Quantiles of reward and discounted return thereafter, ``[batch, num_quantiles]``."""
        network: Any = self.q_net_target
        best = network(batch.next_observations).argmax(dim=1, keepdim=True)
        following = _of(network.quantiles(batch.next_observations), best)
        targets: Tensor = batch.rewards + (1 - batch.dones) * self.gamma * following
        return targets


def _of(quantiles: Tensor, actions: Tensor) -> Tensor:
    """Those of one instance of each row: ``[batch, n, num_quantiles]``, ``[batch, 1]``."""
    return quantiles.take_along_dim(actions.long().unsqueeze(-1), dim=1).squeeze(1)
