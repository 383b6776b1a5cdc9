"""A victim: a policy that decides on what an attacker lets it see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adversary.feature.deception import Deception
from adversary.feature.liar import Liar
from adversary.feature.threat import FeatureThreat
from adversary.threat import Values
from adversary.trace import AttackTrace
from agents.policy import Decision, Policy
from envs.feedback import Feedback
from envs.observation import Observation


class Looks(NamedTuple):
    """True and seen observations of an episode, for ``adversary.feature.seen``."""

    true: list[Observation]
    seen: list[Observation]


class Deceived:
    """A policy whose features are perturbed; the world is not, and the victim learns what really happened.

    In front of several routers there is one attacker: give it ``agents.per_router.PerRouter`` as the policy
    (``adversary.feature.episodes`` does).

    Args:
        policy: The victim.
        threat: What the attacker may do.
        liar: The attacker.
        now_s: Tells the time, e.g. ``lambda: env.cluster.now_s``.
        num_instances: Of the fleet.
        keep_looks: Whether to keep what is shown and what is so, for validation.
    """

    def __init__(
        self,
        policy: Policy,
        threat: FeatureThreat,
        liar: Liar,
        now_s: Callable[[], float],
        num_instances: int,
        keep_looks: bool = False,
    ) -> None:
        self.policy, self.liar = policy, liar
        self.deception = Deception(threat, num_instances)
        self._now_s = now_s
        self._keeps_looks = keep_looks
        self._values: list[Values] = []
        self.looks = Looks([], [])
        """Of this episode, where kept."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; the victim has the very chance that it would have had in peace."""
        self.policy.reset(rng)
        self.liar.reset(rng.spawn(1)[0])
        self.deception.reset()
        self._values = []
        self.looks = Looks([], [])

    def act(self, observation: Observation) -> Decision:
        """Let the victim decide on what it is shown.

        Raises ``ValueError`` where its decision is none: NaN scores or propensities, or a masked instance.
        """
        now_s = self._now_s()
        values, seen = self.deception.lie(observation, self.liar.choose(observation, now_s), now_s)
        if self._keeps_looks:
            self.looks.true.append(observation)
            self.looks.seen.append(seen)
        decision = self.policy.act(seen)
        require_decision(decision, observation["mask"], self.policy, len(self._values))
        self._values.append(values)
        return decision

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Let the victim learn how its decisions fared."""
        self.policy.observe(completions)

    def counters(self) -> Mapping[str, int]:
        """The victim's."""
        return self.policy.counters()

    def trace(self, about: Mapping[str, Any] | None = None) -> AttackTrace:
        """What was done in this episode so far."""
        knobs = self.deception.knobs
        values = np.array(self._values).reshape(len(self._values), len(knobs))
        return AttackTrace("feature", knobs, self.deception.budget, values, 0.0, about or {})


def require_decision(decision: Decision, mask: NDArray[np.generic], victim: Policy, step: int) -> None:
    """Raise ``ValueError`` naming victim and step unless a valid instance was chosen, and scored."""
    instance = int(decision.instance)
    if not 0 <= instance < len(mask) or not mask[instance]:
        raise ValueError(
            f"victim {_name(victim)} chose instance {instance} at step {step}, which is masked (mask"
            f" {np.asarray(mask).tolist()}): it must not go by anything else than the mask where it says 0"
        )
    for name, values in (("scores", decision.scores), ("propensities", decision.propensities)):
        if np.isnan(values).any():
            raise ValueError(
                f"victim {_name(victim)} gave NaN {name} at step {step}: {np.asarray(values).tolist()}; its"
                " weights are damaged, or it cannot take what it was shown"
            )


def _name(victim: Policy) -> str:
    inner = getattr(victim, "policy", None)
    return type(victim).__name__ + (f"({_name(inner)})" if inner is not None else "")
