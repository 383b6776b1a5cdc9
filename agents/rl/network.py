"""A network that scores instances, the same way wherever they stand and however many they are.

Each instance's encoded row passes through the same layers (``embed``); mean and maximum of the embeddings
over the valid instances are the fleet's context; a head, again the same for all, turns a row's embedding and
the context into the row's score. With ``attention_heads`` the instances look at each other before they are
pooled (``agents.rl.attention``), so that a row also says how that instance compares with the others.
Permuting the instances permutes the scores; padded rows change nothing; and weights trained on 4 instances
serve 40.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.hyperparameters import check_widths
from agents.rl.attention import ArrayAttention, Attention

_QUERY = "embed.attention.query"


def shape_of(
    instance_hidden: Sequence[int], head_hidden: Sequence[int], attention_heads: int
) -> dict[str, Any]:
    """The settings of a ``ScoreNetwork`` in plain values. Raises ``ValueError`` naming the first bad one."""
    check_widths(instance_hidden=instance_hidden, head_hidden=head_hidden)
    is_whole = isinstance(attention_heads, int) and not isinstance(attention_heads, bool)
    if not is_whole or attention_heads < 0 or (attention_heads and instance_hidden[-1] % attention_heads):
        raise ValueError(
            f"attention_heads is {attention_heads}, it must be a whole number that divides the last of"
            f" instance_hidden ({instance_hidden[-1]}), or 0 for none"
        )
    return {
        "instance_hidden": list(instance_hidden),
        "head_hidden": list(head_hidden),
        "attention_heads": attention_heads,
    }


class Embedding(nn.Module):
    """Embeds each instance, lets the valid ones attend to each other if asked to, and pools them."""

    def __init__(self, num_features: int, hidden: Sequence[int], attention_heads: int = 0) -> None:
        super().__init__()
        self.layers = _linears([num_features, *hidden])
        self.attention = Attention(hidden[-1], attention_heads) if attention_heads else None

    def forward(self, encoded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed.

        Args:
            encoded: ``[batch, num_instances, num_features]``.
            mask: ``[batch, num_instances]``, 1 where valid.

        Returns:
            Embeddings ``[batch, num_instances, hidden[-1]]``, 0 where masked, and their mean and maximum over
            the valid instances ``[batch, 2 * hidden[-1]]``, 0 where none is.
        """
        valid = mask.to(encoded.dtype).unsqueeze(-1)
        rows = encoded * valid
        for layer in self.layers:
            rows = torch.relu(layer(rows))
        if self.attention is not None:
            rows = rows + torch.relu(self.attention(rows, mask))
        rows = rows * valid  # not below 0, so that a masked row is never the maximum
        mean = rows.sum(dim=-2) / valid.sum(dim=-2).clamp(min=1)
        return rows, torch.cat([mean, rows.amax(dim=-2)], dim=-1)


class ScoreNetwork(nn.Module):
    """One score for each instance: the logits of an actor, or Q-values.

    Args:
        num_features: columns of an encoded observation.
        instance_hidden: widths of the layers that embed an instance.
        head_hidden: widths of the layers that turn embedding and context into a score.
        attention_heads: by which the instances attend to each other; 0: they do not.
        num_scores: of each instance, such as quantiles of what it is worth.
        gain: scale of the last layer's initial weights.
    """

    def __init__(
        self,
        num_features: int,
        instance_hidden: Sequence[int],
        head_hidden: Sequence[int],
        attention_heads: int = 0,
        num_scores: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.embed = Embedding(num_features, instance_hidden, attention_heads)
        self.row = _linear(instance_hidden[-1], head_hidden[0])
        self.context = _linear(2 * instance_hidden[-1], head_hidden[0])
        self.head = _linears([*head_hidden, num_scores])
        nn.init.orthogonal_(self.head[-1].weight, gain)  # type: ignore[arg-type]

    def forward(self, encoded: Tensor, mask: Tensor) -> Tensor:
        """Score; shapes as of ``Embedding``. Scores of masked instances have no meaning.

        Returns:
            ``[batch, num_instances]``; with several scores each, ``[batch, num_instances, num_scores]``.
        """
        rows, context = self.embed(encoded, mask)
        hidden: Tensor = self.row(rows) + self.context(context).unsqueeze(-2)
        for layer in self.head:
            hidden = layer(torch.relu(hidden))
        return hidden.squeeze(-1)

    @property
    def num_scores(self) -> int:
        """Of each instance."""
        return len(self.head[-1].bias)  # type: ignore[arg-type]

    def mean_of_first(self, count: int) -> ScoreNetwork:
        """A network whose only score is the mean of this one's first ``count``."""
        state = self.state_dict()
        for part in ("weight", "bias"):
            name = f"head.{len(self.head) - 1}.{part}"
            state[name] = state[name][:count].mean(dim=0, keepdim=True)
        return self.from_state(state)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ScoreNetwork:
        """The network with these weights, as ``state_dict`` returned them; its shape is read off them."""
        embed = _weights(state, "embed.layers")
        head = _weights(state, "head")
        if not embed or not head:
            raise ValueError(f"these are not the weights of a ScoreNetwork: {sorted(state)}")
        widths = [len(weight) for weight in embed], [weight.shape[1] for weight in head]
        num_heads = len(state[_QUERY]) if _QUERY in state else 0
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn in vain
            network = cls(embed[0].shape[1], *widths, num_heads, len(head[-1]))
        network.load_state_dict(state)
        return network


class ValueNetwork(nn.Module):
    """The value of a state, from the fleet's context."""

    def __init__(
        self,
        num_features: int,
        instance_hidden: Sequence[int],
        head_hidden: Sequence[int],
        attention_heads: int = 0,
    ) -> None:
        super().__init__()
        self.embed = Embedding(num_features, instance_hidden, attention_heads)
        self.head = _linears([2 * instance_hidden[-1], *head_hidden, 1])

    def forward(self, encoded: Tensor, mask: Tensor) -> Tensor:
        """Value ``[batch, 1]``."""
        _, hidden = self.embed(encoded, mask)
        for layer in self.head[:-1]:
            hidden = torch.relu(layer(hidden))
        value: Tensor = self.head[-1](hidden)
        return value


class ArrayScores:
    """``ScoreNetwork`` for one observation, in NumPy: a tenth of the time."""

    def __init__(self, network: ScoreNetwork) -> None:
        self._embed = [_arrays(layer) for layer in network.embed.layers]
        attention = network.embed.attention
        self._attention = None if attention is None else ArrayAttention(attention)
        self._row, self._row_bias = _arrays(network.row)
        self._context, self._context_bias = _arrays(network.context)
        self._head = [_arrays(layer) for layer in network.head]

    def __call__(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score the valid instances: ``[num_valid, num_features]`` to ``[num_valid]``."""
        rows = encoded
        for weight, bias in self._embed:
            rows = np.maximum(rows @ weight + bias, 0)
        if self._attention is not None:
            rows = rows + np.maximum(self._attention(rows), 0)
        context = np.concatenate([rows.mean(axis=0), rows.max(axis=0)])
        hidden = rows @ self._row + (context @ self._context + (self._row_bias + self._context_bias))
        for weight, bias in self._head:
            hidden = np.maximum(hidden, 0) @ weight + bias
        scores: NDArray[np.float32] = hidden[:, 0]
        return scores


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.orthogonal_(layer.weight, 2**0.5)
    nn.init.zeros_(layer.bias)
    return layer


def _linears(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(_linear(*pair) for pair in pairwise(widths))


def _weights(state: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    """Weights of the layers ``prefix.0``, ``prefix.1``, ..., in order."""
    names = (f"{prefix}.{index}.weight" for index in range(len(state)))
    return [state[name] for name in names if name in state]


def _arrays(layer: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight ``[num_inputs, num_outputs]`` and bias."""
    weight = np.ascontiguousarray(layer.weight.detach().numpy().T)
    return weight, layer.bias.detach().numpy().copy()
