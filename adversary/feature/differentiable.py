"""Scores of victims as functions whose gradient an attacker can follow, from raw features on."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from adversary.feature.torch_encoding import encode
from agents.bandits.linear_bandit import LinearBandit
from agents.bandits.lodestar import Lodestar
from agents.bandits.predictor import Predictor
from agents.bandits.prefix_freshness import AGE, HIT
from agents.policy import Policy
from agents.rl.sb3_policy import Sb3Policy

Scores: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of raw ``instances`` float32 ``[batch, num_instances, num_instance_features]``, ``request``
``[num_request_features]`` and ``mask`` ``[num_instances]``: what the policy thinks of each instance,
``[batch, num_instances]``, the higher the better; without meaning where masked."""


@runtime_checkable
class Differentiable(Protocol):
    """A policy that gives its scores in torch by itself."""

    def torch_scores(self, instances: Tensor, request: Tensor, mask: Tensor) -> Tensor:
        """Scores; see ``Scores``."""
        ...


def scores_of(policy: Policy) -> Scores:
    """The policy's scores, as it has them at the time of each call.

    Networks trained with Stable-Baselines3 give logits or Q-values, Lodestar its predicted reward, linear
    bandits their expected reward (without bonus or draw).

    Raises:
        ValueError: The policy has no gradient, or nothing learned yet; the message says what to use instead.
    """
    if isinstance(policy, Differentiable):
        return policy.torch_scores
    if isinstance(policy, Sb3Policy):
        network = deepcopy(policy.network).requires_grad_(False)
        return lambda instances, request, mask: network(
            encode(instances, request, mask), mask.expand(len(instances), -1)
        )
    if isinstance(policy, Lodestar):
        return _LodestarScores(policy)
    if isinstance(policy, LinearBandit):
        bandit = policy
        return lambda instances, request, mask: _linear(bandit, encode(instances, request, mask))
    raise ValueError(
        f"{type(policy).__name__} has no gradient to follow: attack it by search or rl, or with the gradient"
        " of another policy (networks of Stable-Baselines3, Lodestar and linear bandits have one)"
    )


class _LodestarScores:
    """Of the present predictor: Lodestar replaces it as it learns."""

    def __init__(self, policy: Lodestar) -> None:
        if policy.predictor is None:
            raise ValueError(
                "Lodestar has no predictor yet, its fallback decides: train it first, or attack it by search"
                " or rl"
            )
        self._policy = policy
        self._held: Predictor | None = None

    def __call__(self, instances: Tensor, request: Tensor, mask: Tensor) -> Tensor:
        """Predicted rewards."""
        predictor = self._policy.predictor
        assert predictor is not None  # once there, it is only replaced
        if predictor is not self._held:
            self._held = predictor
            pairs = zip(predictor.weights, predictor.biases, strict=True)
            self._layers = [(torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in pairs]
        values = encode(instances, request, mask)
        if self._policy.freshness_half_life_s is not None:
            values = _with_freshness(values, self._policy.freshness_half_life_s)
        for weight, bias in self._layers[:-1]:
            values = torch.relu(values @ weight + bias)
        weight, bias = self._layers[-1]
        return (values @ weight + bias)[..., 0]


def _with_freshness(rows: Tensor, half_life_s: float) -> Tensor:
    """``agents.bandits.prefix_freshness.with_freshness`` in torch."""
    fresh = rows[..., HIT] * torch.exp2(-torch.expm1(rows[..., AGE]) / half_life_s)
    return torch.cat([rows, fresh[..., None]], dim=-1)


def _linear(policy: LinearBandit, encoded: Tensor) -> Tensor:
    weights = torch.from_numpy(policy.mean_weights())
    scores: Tensor = encoded.double() @ weights[:-1] + weights[-1]
    return scores
