"""Lets a policy decide where it may, and a heuristic where it may not, cannot, or shall be compared with.

    choice = guard.choose(observation, now_s)
    ...
    guard.learned(choice, ttft_s, now_s)

Every decision that is not the policy's own is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.export.runtime import BundlePolicy
from agents.hyperparameters import check_positive, check_range
from agents.policy import Decision, Policy
from agents.router.asked import tenant_number
from agents.router.breaker import Arm, Breaker, BreakerSettings
from envs.observation import Observation

REASONS = (
    "no_policy",  # none is loaded
    "shadow",  # it decides, and nobody acts on it
    "holdout",  # the heuristic's share, always on
    "canary",  # what is beyond the policy's share
    "breaker",  # it did worse
    "out_of_range",  # it was not trained on the like
    "slow",  # it took longer than it may
    "resting",  # it was slow several times in a row
    "error",  # it raised
    "not_finite",  # its scores or propensities, or they are none of these instances
)
"""Why the heuristic decided."""
HEURISTICS_SHARE = ("holdout", "canary")
"""Reasons that are chance alone."""
DRAWN: Mapping[str, Arm] = {
    **dict.fromkeys(("", "out_of_range", "slow", "error", "not_finite"), "policy"),
    **dict.fromkeys(HEURISTICS_SHARE, "heuristic"),
}
"""To which arm chance had given a decision, by its reason; others were given to none."""


@dataclass(frozen=True)
class GuardSettings:
    """How far a policy is trusted."""

    share: float = 1.0
    """Of the requests that the policy decides about, where nothing speaks against it (canary)."""
    holdout: float = 0.02
    """Share that the heuristic decides about at any rate, for comparison."""
    trial: float = 0.1
    """The policy's share while it is on trial, after it had done worse."""
    is_shadow: bool = False
    """Whether the policy only says what it would do."""
    max_decision_s: float = 0.002
    """After which the heuristic's decision is taken instead."""
    max_slow: int = 5
    """So many slow decisions in a row, and the policy rests."""
    rest_s: float = 10.0
    exploration: float = 0.0
    """Share of the policy's decisions that go to any instance, all alike: what it learns from, online."""
    max_exploration: Mapping[str, float] = field(default_factory=dict)
    """Tenant -> the most of it that its requests bear; others bear all of it."""
    check_range: bool = True
    """Whether the policy's fallback, or else the heuristic, decides where what it would choose is out of the
    range of its training."""
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    def __post_init__(self) -> None:
        """Refuse what is no share, no duration."""
        shares = {name: getattr(self, name) for name in ("share", "holdout", "trial", "exploration")}
        shares |= {f"max_exploration.{tenant}": most for tenant, most in self.max_exploration.items()}
        check_range(0, 1, **{f"guard.{name}": value for name, value in shares.items()})
        check_positive(**{f"guard.{name}": getattr(self, name) for name in ("max_decision_s", "rest_s")})
        if self.max_slow < 1:
            raise ValueError(f"guard.max_slow is {self.max_slow}, it must be at least 1")


class Choice(NamedTuple):
    """A decision, and whose it is."""

    instance: int
    propensities: NDArray[np.float64]
    """Of policy or heuristic, whichever decided; of the draw between them too where ``is_recorded``."""
    scores: NDArray[np.float64]
    reason: str
    """Why it was the heuristic; empty where the policy decided."""


class Guard:
    """Decides by policy or by heuristic.

    Args:
        policy: An exported policy; None: the heuristic decides.
        heuristic: Always ready.
        settings: How far the policy is trusted.
        rng: All chance: which arm, and the policies' own.
    """

    def __init__(
        self,
        policy: BundlePolicy | None,
        heuristic: Policy,
        settings: GuardSettings,
        rng: np.random.Generator,
    ) -> None:
        self.heuristic, self.settings = heuristic, settings
        self.breaker = Breaker(settings.breaker)
        self.counts: Counter[str] = Counter()
        """Decisions by reason; the policy's own under ``""``."""
        self.num_agreed = 0
        """Of the decisions in shadow, those in which the heuristic chose what the policy would have."""
        self.last_error = ""
        self.is_recorded = False
        """Whether propensities are wanted as they were before chance drew who decides, as estimates from a
        recording need them: then both are asked wherever both might have decided."""
        self._explorations = {
            tenant_number(tenant): min(most, settings.exploration)
            for tenant, most in settings.max_exploration.items()
        }
        self._rng = rng
        self._num_slow, self._rests_until_s = 0, 0.0
        heuristic.reset(rng.spawn(1)[0])
        self.load(policy)

    def load(self, policy: BundlePolicy | None) -> None:
        """Let another policy decide from now on; it is trusted anew."""
        self.swap(policy)
        self.breaker.reset()

    def swap(self, policy: BundlePolicy | None) -> None:
        """Let a later version of the policy decide; it is trusted as the earlier one was."""
        if policy is not None:
            policy.reset(self._rng.spawn(1)[0])
        self.policy = policy
        self._num_slow, self._rests_until_s = 0, 0.0

    def choose(self, observation: Observation, now_s: float, tenant: int = 0) -> Choice:
        """Decide about a request of a tenant. Raises ``ValueError`` where every instance is masked."""
        reason, share = self._stands_back(now_s)
        is_shadow, is_mixed = reason == "shadow", self.is_recorded and 0.0 < share < 1.0
        decision: Decision | None = None
        if reason in ("", "shadow"):
            decision, trouble = self._ask(observation, now_s, tenant)
            if trouble or not is_shadow:
                reason = trouble
        self.counts[reason] += 1
        if decision is not None and not is_shadow:
            other = self.heuristic.act(observation) if is_mixed else None
            return _choice(decision, reason, other, 1.0 - share)
        own = self.heuristic.act(observation)
        if decision is not None and is_shadow:
            self.num_agreed += own.instance == decision.instance
        other = self._ask(observation, now_s, tenant)[0] if is_mixed and reason in HEURISTICS_SHARE else None
        return _choice(own, reason, other, share)

    def learned(self, choice: Choice, loss_s: float, now_s: float) -> None:
        """Take in what a request took that was decided about so; NaN: it failed.

        Compared is what chance gave to the one arm with what it gave to the other: requests that the policy
        had to leave to the heuristic are of another kind than most, and count as the policy's.
        """
        arm = DRAWN.get(choice.reason)
        if arm is not None and not self.settings.is_shadow:
            self.breaker.observe(arm, loss_s, now_s)

    def _stands_back(self, now_s: float) -> tuple[str, float]:
        """Why the policy shall not be asked, or not be heeded; and what its chances were to be."""
        settings = self.settings
        if self.policy is None:
            return "no_policy", 0.0
        if settings.is_shadow:
            return "shadow", 0.0
        state = self.breaker.state(now_s)
        if state == "open":
            return "breaker", 0.0
        if now_s < self._rests_until_s:
            return "resting", 0.0
        share = (1.0 - settings.holdout) * (settings.trial if state == "half_open" else settings.share)
        draw = self._rng.random()
        if draw < settings.holdout:
            return "holdout", share
        return "" if draw < settings.holdout + share else "canary", share

    def _ask(self, observation: Observation, now_s: float, tenant: int) -> tuple[Decision | None, str]:
        """The policy's decision; or none, and why."""
        policy, settings = self.policy, self.settings
        assert policy is not None
        policy.exploration = self._explorations.get(tenant, settings.exploration)
        began_s = perf_counter()
        try:
            decision, is_out = policy.judge(observation, settings.check_range)
            is_sound = _is_sound(decision, observation)
        except Exception as error:  # whatever it is, the request must go somewhere
            self.last_error = f"{type(error).__name__}: {error}"
            return None, "error"
        if perf_counter() - began_s > settings.max_decision_s:
            self._num_slow += 1
            if self._num_slow >= settings.max_slow:
                self._num_slow, self._rests_until_s = 0, now_s + settings.rest_s
            return None, "slow"
        self._num_slow = 0
        is_out = is_out and (settings.check_range or policy.checks_range)
        if is_out and not policy.has_fallback:
            return None, "out_of_range"
        if not is_sound:
            return None, "not_finite"
        return decision, "out_of_range" if is_out else ""

    def counters(self) -> Mapping[str, int]:
        """How often the heuristic decided, by reason."""
        return {reason: self.counts[reason] for reason in REASONS}


def _choice(decision: Decision, reason: str, other: Decision | None, share_of_other: float) -> Choice:
    """A decision, and what else might have been decided, with such a chance, by another."""
    propensities = decision.propensities
    if other is not None:
        propensities = (1.0 - share_of_other) * propensities + share_of_other * other.propensities
    return Choice(decision.instance, propensities, decision.scores, reason)


def _is_sound(decision: Decision, observation: Observation) -> bool:
    mask = observation["mask"]
    return bool(
        decision.propensities.shape == decision.scores.shape == mask.shape
        and mask[decision.instance]
        and np.isfinite(decision.scores[decision.instance])
        and abs(decision.propensities.sum() - 1.0) < 1e-6
    )
