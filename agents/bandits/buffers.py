"""The samples that Lodestar trains on: the recent ones, and older ones kept for being unlike each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """Encoded rows of chosen instances and the TTFTs that followed."""

    rows: NDArray[np.float32]
    """``[num_samples, num_features]``."""
    ttft_s: NDArray[np.float32]
    """``[num_samples]``."""

    def __len__(self) -> int:
        return len(self.ttft_s)

    def take(self, indices: NDArray[np.intp]) -> Samples:
        """The samples at ``indices``, copied."""
        return Samples(self.rows[indices], self.ttft_s[indices])

    def state(self) -> dict[str, Any]:
        """The arrays, copied."""
        return {"rows": self.rows.copy(), "ttft_s": self.ttft_s.copy()}


def no_samples(num_features: int) -> Samples:
    """Samples without any sample."""
    return Samples(np.empty((0, num_features), np.float32), np.empty(0, np.float32))


def concatenate(*parts: Samples) -> Samples:
    """All samples of all parts, in order."""
    return Samples(np.concatenate([part.rows for part in parts]), np.concatenate([p.ttft_s for p in parts]))


def load_samples(state: Mapping[str, Any], name: str, num_features: int, max_samples: int) -> Samples:
    """The samples whose ``state()`` is given. Raises ``ValueError`` naming what does not fit."""
    samples = Samples(
        np.array(state["rows"], np.float32, order="C"), np.array(state["ttft_s"], np.float32, order="C")
    )
    if samples.rows.shape != (len(samples), num_features) or len(samples) > max_samples:
        raise ValueError(
            f"state: {name} holds rows {samples.rows.shape} and {len(samples)} TTFTs, they must be at most"
            f" {max_samples} of {num_features} features"
        )
    return samples


class FifoBuffer:
    """The ``capacity`` most recent samples; ``evicted`` are those pushed out since it was last taken."""

    def __init__(self, capacity: int, num_features: int) -> None:
        self.capacity = capacity
        self._rows = np.zeros((capacity, num_features), np.float32)
        self._ttft_s = np.zeros(capacity, np.float32)
        self._num_added = 0
        self._evicted: list[tuple[NDArray[np.float32], np.float32]] = []

    def __len__(self) -> int:
        return min(self._num_added, self.capacity)

    def add(self, row: NDArray[np.float32], ttft_s: float) -> None:
        """Append a sample, pushing out the oldest where full."""
        slot = self._num_added % self.capacity
        if self._num_added >= self.capacity:
            self._evicted.append((self._rows[slot].copy(), self._ttft_s[slot]))
        self._rows[slot], self._ttft_s[slot] = row, ttft_s
        self._num_added += 1

    def samples(self) -> Samples:
        """The samples, oldest first, copied."""
        oldest = self._num_added % self.capacity if self._num_added >= self.capacity else 0
        order = (oldest + np.arange(len(self))) % self.capacity
        return Samples(self._rows[order], self._ttft_s[order])

    def evicted(self) -> Samples:
        """The samples pushed out since ``take_evicted``, oldest first."""
        if not self._evicted:
            return no_samples(self._rows.shape[1])
        rows, ttft_s = zip(*self._evicted, strict=True)
        return Samples(np.stack(rows), np.array(ttft_s, np.float32))

    def take_evicted(self) -> Samples:
        """``evicted``, which is empty then."""
        evicted = self.evicted()
        self._evicted.clear()
        return evicted

    def fill(self, samples: Samples, evicted: Samples) -> None:
        """Hold just these samples."""
        self._rows[: len(samples)], self._ttft_s[: len(samples)] = samples.rows, samples.ttft_s
        self._num_added = len(samples)
        self._evicted = list(zip(evicted.rows, evicted.ttft_s, strict=True))


def gradient_coreset(
    activations: NDArray[np.float32], residuals: NDArray[np.float32], num_chosen: int
) -> NDArray[np.intp]:
    """Choose samples whose gradients point in most different directions: greedy k-center, cosine distance.

    A sample's gradient is that of its squared error by the last layer's weights, up to its sign: the last
    hidden activations times ``|residual|``. Cosine distance sees directions only, so that the residual
    decides but which sample is first: the one of the longest gradient. Ties fall to the older sample.

    Args:
        activations: last hidden layer's, ``[num_samples, hidden_size]``.
        residuals: prediction less target, ``[num_samples]``.
        num_chosen: how many to choose, at most ``num_samples``.

    Returns:
        Indices of the chosen samples, ascending.
    """
    lengths = np.linalg.norm(activations, axis=1)
    directions = activations / np.maximum(lengths, 1e-12)[:, None]
    chosen = np.empty(num_chosen, np.intp)
    nearness = np.full(len(activations), -np.inf, np.float32)  # similarity to the nearest chosen sample
    index = int(np.argmax(lengths * np.abs(residuals)))
    for count in range(num_chosen):
        chosen[count] = index
        np.maximum(nearness, directions @ directions[index], out=nearness)
        nearness[index] = np.inf
        index = int(np.argmin(nearness))
    return np.sort(chosen)
