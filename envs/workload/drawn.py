"""Traces drawn anew: each episode's requests are its own, and no two seeds share any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.cluster import Completion, Request
from envs.workload.replay import Replay
from envs.workload.trace import Trace


class Drawn:
    """Open-loop ``Workload`` that draws a trace at each ``reset`` and replays it from its first request on.

    What is drawn follows from ``seed`` and the generator given to ``reset``: streams of two ``Drawn`` with
    different seeds have no draw in common, whatever their episodes' seeds.

    Args:
        draw: Gives the replay of a trace that it draws from a generator.
        seed: Of all traces, from 0.
    """

    closed_loop = False

    def __init__(self, draw: Callable[[np.random.Generator], Replay], seed: int) -> None:
        self._draw, self._seed = draw, seed
        self._replay = draw(np.random.default_rng((seed, 0)))
        self.trace: Trace = self._replay.trace
        """One of the traces: it tells of the settings, and of the files they name."""
        self.num_requests = self._replay.num_requests
        self.block_size = self._replay.block_size
        self.notes = (*self._replay.notes, f"drawn anew for each seed, from seed {seed}")

    @property
    def exhausted(self) -> bool:
        """Whether every request has been popped."""
        return self._replay.exhausted

    def reset(self, rng: np.random.Generator) -> None:
        """Draw a trace, for which one integer is drawn from ``rng``."""
        self._replay = self._draw(np.random.default_rng((self._seed, 1 + int(rng.integers(1 << 62)))))

    def next_arrival_at_s(self) -> float:
        """When the next request arrives; infinite after the last."""
        return self._replay.next_arrival_at_s()

    def pop(self) -> Request:
        """Return the next request; ``RuntimeError`` after the last."""
        return self._replay.pop()

    def observe(self, completion: Completion) -> None:
        """Nothing follows from a completion in open loop."""
