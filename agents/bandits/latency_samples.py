"""Samples of TTFT in strata, so that rare states of an instance are not crowded out by common ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.observation import ENCODED_NAMES

QUEUE_EDGES = np.array([1, 3, 6, 11])
"""Waiting requests from which the next stratum begins: 0, 1-2, 3-5, 6-10, 11 and more."""
NUM_USAGES, NUM_MATCHES = 20, 4
"""Strata of the KV usage and of the prefix match, of equal breadth."""
_WAITING, _USAGE, _MATCH = (
    ENCODED_NAMES.index(name) for name in ("num_waiting", "frac_kv_cache_usage", "frac_prefix_hit")
)


class LatencySamples:
    """The latest samples of each stratum.

    Strata are those of llm-d/llm-d-latency-predictor at 04e44cd: by waiting requests (5), KV usage (20) and
    prefix match (4).

    Args:
        capacity: Samples per stratum.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._strata: dict[int, deque[tuple[NDArray[np.float32], float]]] = {}  # in the order of their number

    def __len__(self) -> int:
        return sum(len(stratum) for stratum in self._strata.values())

    def add(self, row: NDArray[np.float32], ttft_s: float) -> None:
        """Take in the encoded row of a chosen instance and its outcome; the oldest of the stratum goes."""
        self._strata.setdefault(_stratum(row), deque(maxlen=self.capacity)).append((row, ttft_s))

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All rows ``[num_samples, num_encoded]`` and TTFTs ``[num_samples]``, stratum by stratum."""
        samples = [sample for key in sorted(self._strata) for sample in self._strata[key]]
        rows = np.array([row for row, _ in samples], np.float32).reshape(len(samples), len(ENCODED_NAMES))
        return rows, np.array([ttft_s for _, ttft_s in samples], np.float32)

    def state(self) -> dict[str, Any]:
        """The samples, in arrays."""
        rows, ttft_s = self.arrays()
        return {"rows": rows, "ttft_s": ttft_s}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Hold just these samples."""
        self._strata = {}
        for row, ttft_s in zip(np.array(state["rows"], np.float32), state["ttft_s"], strict=True):
            self.add(row, float(ttft_s))


def _stratum(row: NDArray[np.float32]) -> int:
    num_waiting = round(float(np.expm1(row[_WAITING])))
    queue = int(np.searchsorted(QUEUE_EDGES, num_waiting, side="right"))
    usage = min(int(row[_USAGE] * NUM_USAGES), NUM_USAGES - 1)
    match = min(int(row[_MATCH] * NUM_MATCHES), NUM_MATCHES - 1)
    return (queue * NUM_USAGES + usage) * NUM_MATCHES + match
