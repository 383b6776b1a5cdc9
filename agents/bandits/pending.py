"""Decisions whose outcome is not known yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.feedback import Feedback
from envs.observation import ENCODED_NAMES


class PendingDecisions:
    """Remembers the chosen instance and its encoded row per decision, until the outcome comes.

    At most ``max_pending`` decisions are remembered; beyond that the oldest is forgotten and counted.
    Feedback on that one, or on one before it, comes too late and is not counted again.
    """

    def __init__(self, max_pending: int) -> None:
        if max_pending < 1:
            raise ValueError(f"max_pending is {max_pending}, it must be at least 1")
        self.max_pending = max_pending
        self.reset()

    def reset(self) -> None:
        """Forget all decisions and count them from 0 again."""
        self._next_id = 0
        self._num_old = 0  # decisions up to the last one forgotten
        self._decisions: dict[int, tuple[int, NDArray[np.float32]]] = {}  # decision_id -> (instance, row)
        self.counters = dict.fromkeys(
            ("failed_feedback", "unknown_feedback", "redirected_feedback", "forgotten_decisions"), 0
        )

    def __len__(self) -> int:
        return len(self._decisions)

    def remember(self, instance: int, row: NDArray[np.float32]) -> None:
        """Take in the next decision; ``row`` is copied."""
        if len(self._decisions) == self.max_pending:
            oldest = next(iter(self._decisions))
            del self._decisions[oldest]
            self._num_old = oldest + 1
            self.counters["forgotten_decisions"] += 1
        self._decisions[self._next_id] = (instance, row.copy())
        self._next_id += 1

    def claim(self, feedback: Feedback) -> NDArray[np.float32] | None:
        """The row of the decision that ``feedback`` is about, which is forgotten then.

        None, and counted (once), where there is nothing to learn: the request failed or has no finite TTFT,
        the decision is not known, or the request was served by another instance than the chosen one.
        """
        instance, row = self._decisions.pop(feedback.decision_id, (-1, None))
        if row is None:
            self.counters["unknown_feedback"] += not 0 <= feedback.decision_id < self._num_old
        elif feedback.failure or not math.isfinite(feedback.ttft_s):
            self.counters["failed_feedback"] += 1
            return None
        elif feedback.instance != instance:
            self.counters["redirected_feedback"] += 1
            return None
        return row

    def state(self) -> dict[str, Any]:
        """Everything, in arrays and plain values."""
        rows = [row for _, row in self._decisions.values()]
        return {
            "next_id": self._next_id,
            "num_old": self._num_old,
            "ids": np.array(list(self._decisions), np.int64),
            "instances": np.array([instance for instance, _ in self._decisions.values()], np.int64),
            "rows": np.array(rows, np.float32).reshape(len(rows), len(ENCODED_NAMES)),
            "counters": dict(self.counters),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        if len(state["ids"]) > self.max_pending:
            raise ValueError(
                f"the state holds {len(state['ids'])} pending decisions, max_pending is {self.max_pending}"
            )
        self._next_id = int(state["next_id"])
        self._num_old = int(state.get("num_old", 0))  # states written by earlier versions lack it
        self._decisions = {
            int(decision_id): (int(instance), np.array(row, np.float32))
            for decision_id, instance, row in zip(
                state["ids"], state["instances"], state["rows"], strict=True
            )
        }
        self.counters = {name: int(count) for name, count in state["counters"].items()}
