"""Attention: each instance looks at the others, and more at those that matter to it.

Each asks the valid instances, itself among them, and takes the mean of what they answer, weighed by how well
they fit what it asks for; several heads ask for different things (Vaswani et al.: Attention Is All You Need,
NeurIPS 2017, sections 3.2.1 and 3.2.2). Permuting the instances permutes what they get, and masked ones are
not asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Attention(nn.Module):
    """What each instance gets from the valid ones.

    Args:
        width: Of an instance's embedding, and of what it gets.
        num_heads: Each has an equal share of the width, which they must divide.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        shape = num_heads, width, width // num_heads
        self.query, self.key, self.value = (nn.Parameter(torch.empty(shape)) for _ in range(3))
        for weights in (self.query, self.key, self.value):
            for head in weights:
                nn.init.orthogonal_(head)
        self.out = nn.Linear(width, width)
        nn.init.orthogonal_(self.out.weight, 2**0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            rows: Embeddings, finite also where masked, ``[batch, num_instances, width]``.
            mask: ``[batch, num_instances]``, 1 where valid.

        Returns:
            ``[batch, num_instances, width]``; without meaning where masked.
        """
        rows = rows.unsqueeze(-3)  # all heads have the same
        queries, keys, values = rows @ self.query, rows @ self.key, rows @ self.value
        fits = queries @ keys.transpose(-1, -2) / self.query.shape[-1] ** 0.5
        # The least number, not -inf: where no instance is valid, that would be 0 / 0.
        fits = fits.masked_fill(mask[..., None, None, :] == 0, torch.finfo(fits.dtype).min)
        answers = torch.softmax(fits, dim=-1) @ values
        got: Tensor = self.out(answers.transpose(-2, -3).flatten(-2))
        return got


class ArrayAttention:
    """``Attention`` among the valid instances of one observation, in NumPy; ``agents.export`` traces it."""

    def __init__(self, attention: Attention) -> None:
        query, key, value = (
            weights.detach().numpy().copy() for weights in (attention.query, attention.key, attention.value)
        )
        query /= np.float32(query.shape[-1] ** 0.5)
        self._heads = list(zip(query, key, value, strict=True))
        self._out = np.ascontiguousarray(attention.out.weight.detach().numpy().T)
        self._bias = attention.out.bias.detach().numpy().copy()

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Attend: ``[num_valid, width]`` to the same shape."""
        answers = []
        for query, key, value in self._heads:
            fits: Any = np.einsum("if,jf->ij", rows @ query, rows @ key)
            likes = np.exp(fits - fits.max(axis=1)[:, None])
            answers.append(likes @ (rows @ value) / likes.sum(axis=1)[:, None])
        got: NDArray[np.float32] = np.concatenate(answers, axis=1) @ self._out + self._bias
        return got
