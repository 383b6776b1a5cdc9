"""Leave a decision to a rule that does not depend on reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from agents.bandits.checkpoint import pack_rng, require_rng, unpack_rng
from agents.defences.defence import Defence, Flags, Rows, distrusted_by, learns
from agents.policy import Decision, Policy, valid_instances
from envs.feedback import Feedback
from envs.observation import INSTANCE_HIGH, INSTANCE_LOW, REQUEST_HIGH, REQUEST_LOW, Observation


class Fallback(Defence):
    """A heuristic decides as soon as the policy inside cannot, or too many instances are distrusted.

    It cannot where it raises, chooses a masked instance, or its propensities or the chosen score are not
    finite; ``last_error`` keeps what it raised. Instances are distrusted by the defences between this one and
    the policy: without any, only errors make it fall back. The fallback sees the observation as it came, with
    what is not finite put to the lower bound, so take one that goes by the router's own counters.

    A learner inside learns on: of a decision that the fallback took from it, it is told how that fared under
    the number of its own; bandits here count it as redirected where another instance was chosen.

    Args:
        policy: What is defended.
        fallback: A heuristic.
        max_distrusted: Instances that may be distrusted at a time.
    """

    kind = "fallback"
    counted = ("fell_back", "fell_back_on_error")  # decisions; the second are among the first

    def __init__(self, policy: Policy, fallback: Policy, max_distrusted: int = 2) -> None:
        super().__init__(policy)
        if learns(fallback):
            raise ValueError("fallback is a learner: give a heuristic, since it gets no feedback")
        if isinstance(max_distrusted, bool) or max_distrusted < 0:
            raise ValueError(f"max_distrusted is {max_distrusted}, it must be a whole number from 0")
        self.fallback, self.max_distrusted = fallback, max_distrusted
        self.last_error: Exception | None = None
        self._fallback_rng: np.random.Generator | None = None
        self.forget()

    def forget(self) -> None:
        """Forget which decision was whose."""
        self._num_decided = self._num_own = 0  # of all, and of those that the policy inside made
        self._own: dict[
            int, int
        ] = {}  # decision whose outcome is not known -> which one of the policy inside

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; the fallback has a chance of its own."""
        self.last_error = None
        self._fallback_rng = rng.spawn(1)[0]
        self.fallback.reset(self._fallback_rng)
        super().reset(rng)

    def act(self, observation: Observation) -> Decision:
        """Decide, by the policy inside or else by the fallback. Raises where all instances are masked."""
        require_rng(self._fallback_rng)
        valid_instances(observation)
        decision_id, self._num_decided = self._num_decided, self._num_decided + 1
        self.distrusted = np.zeros(len(observation["mask"]), np.bool_)
        try:
            decision = self.policy.act(observation)
        except Exception as error:  # whatever it is, the request must go somewhere
            self.last_error = error
            return self._fall_back(observation, on_error=True)
        self._own[decision_id], self._num_own = self._num_own, self._num_own + 1
        if not _is_sound(decision, observation):
            return self._fall_back(observation, on_error=True)
        self.distrusted = distrusted_by(self.policy)
        if self.distrusted.sum() > self.max_distrusted:
            return self._fall_back(observation, on_error=False)
        return decision

    def _fall_back(self, observation: Observation, on_error: bool) -> Decision:
        self._counts["fell_back"] += 1
        self._counts["fell_back_on_error"] += on_error
        finite = {
            "instances": _finite(observation["instances"], INSTANCE_LOW, INSTANCE_HIGH),
            "request": _finite(observation["request"], REQUEST_LOW, REQUEST_HIGH),
        }
        return self.fallback.act({**observation, **finite})

    def mend(self, rows: Rows, valid: Flags) -> None:
        """Leave the observation as it is."""

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Tell the policy inside how the decisions fared that it made, by its own count of them."""
        known = []
        for feedback in completions:
            own = self._own.pop(feedback.decision_id, None)
            if own is not None:
                known.append(feedback._replace(decision_id=own))
        self.policy.observe(known)

    def memory(self) -> dict[str, Any]:
        """Which decision was whose; the fallback's own memory is not kept and begins anew."""
        return {
            "num_decided": self._num_decided,
            "num_own": self._num_own,
            "decisions": np.array(list(self._own), np.int64),
            "own": np.array(list(self._own.values()), np.int64),
            "fallback_rng": pack_rng(self._fallback_rng),
        }

    def load_memory(self, memory: Mapping[str, Any]) -> None:
        """Take up what ``memory`` returned."""
        self._num_decided, self._num_own = int(memory["num_decided"]), int(memory["num_own"])
        self._own = dict(zip(memory["decisions"].tolist(), memory["own"].tolist(), strict=True))
        self._fallback_rng = unpack_rng(memory["fallback_rng"])
        if self._fallback_rng is not None:
            self.fallback.reset(self._fallback_rng)


def _is_sound(decision: Decision, observation: Observation) -> bool:
    instance, mask = decision.instance, observation["mask"]
    return bool(
        0 <= instance < len(mask)
        and mask[instance]
        and np.isfinite(decision.propensities).all()
        and np.isfinite(decision.scores[instance])
    )


def _finite(values: Any, low: Any, high: Any) -> Any:
    """Values within bounds, NaN as the lower one."""
    bounded = np.clip(cast(Any, values), low, high)
    return np.where(np.isnan(bounded), low, bounded)
