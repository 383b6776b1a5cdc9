"""Which prefixes a router lately sent where: what it tells the other routers before the same instances."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_KEYS = 32_768
"""Held of all sends together, and one for each of them; the oldest are forgotten, told or not."""


class Send(NamedTuple):
    """A prompt, as its keys in the prefix index, and the instance that got it."""

    instance: int
    keys: NDArray[np.int64]


class Sends:
    """The last of them, by number."""

    def __init__(self) -> None:
        self.number = 0
        """Of the next."""
        self._held: deque[Send] = deque()
        self._num_keys = 0

    def add(self, send: Send) -> None:
        """Take one in."""
        self._held.append(send)
        self.number += 1
        self._num_keys += 1 + len(send.keys)
        while self._num_keys > MAX_KEYS:
            self._num_keys -= 1 + len(self._held.popleft().keys)

    def since(self, number: int) -> list[Send]:
        """Those of this number and later that are held."""
        first = self.number - len(self._held)
        return list(islice(self._held, max(number - first, 0), None))
