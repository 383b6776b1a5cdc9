"""What the linear bandits share: one model, learned from each decision's own outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.bandits.checkpoint import check_header, header, pack_rng, unpack_rng
from agents.bandits.linear_model import LinearModel, contexts_of
from agents.bandits.pending import PendingDecisions
from agents.hyperparameters import check_positive
from agents.policy import Decision
from envs.feedback import Feedback
from envs.observation import ENCODED_NAMES, Observation


class LinearBandit(ABC):
    """A learner over one linear model shared by all instances; the reward is -TTFT in seconds."""

    kind: ClassVar[str]
    """Name of the algorithm in its states."""

    def __init__(self, ridge: float, forgetting: float, max_ttft_s: float, max_pending: int) -> None:
        check_positive(max_ttft_s=max_ttft_s)
        self.max_ttft_s = max_ttft_s
        self._model = LinearModel(len(ENCODED_NAMES) + 1, ridge, forgetting)
        self._pending = PendingDecisions(max_pending)
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; the model is kept."""
        self._rng = rng
        self._pending.reset()

    @abstractmethod
    def act(self, observation: Observation) -> Decision:
        """Decide, and remember the decision as pending."""

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Learn from each decision's own outcome."""
        for feedback in completions:
            row = self._pending.claim(feedback)
            if row is not None:
                self.learn(row, feedback.ttft_s)

    def learn(self, row: NDArray[np.float32], ttft_s: float) -> bool:
        """Learn an outcome. See ``agents.policy.Teachable``."""
        self._model.update(contexts_of(row), -min(ttft_s, self.max_ttft_s))
        return True

    def mean_weights(self) -> NDArray[np.float64]:
        """Expected weights of an instance's encoded row and, last, of the bias, ``[num_features + 1]``."""
        mean, _ = self._model.posterior()
        return mean

    def counters(self) -> Mapping[str, int]:
        """Feedback that was not learned from and decisions forgotten, since reset."""
        return dict(self._pending.counters)

    def state(self) -> dict[str, Any]:
        """The model, pending decisions, counters and random state."""
        return {
            **header(self.kind),
            "model": self._model.state(),
            "pending": self._pending.state(),
            "rng": pack_rng(self._rng),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        check_header(state, self.kind)
        self._model.load_state(state["model"])
        self._pending.load_state(state["pending"])
        self._rng = unpack_rng(state["rng"])
