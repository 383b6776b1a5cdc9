"""Takes the learned arm out when it does worse than the heuristic, by what their requests really took.

Both arms always get some requests, drawn by chance, so that the comparison is fair: a small share goes to the
heuristic even while the policy is trusted (the holdout), and after a time out a small share to the policy
again. The verdict is Welch's test on the last losses of either arm, one-sided. Neighbouring requests share
queues and so are not independent, and the test is made again and again: hence a bound much stricter than the
usual, ``Z``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

from agents.hyperparameters import check_positive

Arm = Literal["policy", "heuristic"]
State = Literal["closed", "open", "half_open"]
Z = 4.0
"""Standard errors by which the policy's mean loss must exceed the heuristic's: one in 30,000 for one test of
independent losses."""


@dataclass(frozen=True)
class BreakerSettings:
    """When to open, and for how long."""

    window: int = 500
    """Losses kept of each arm."""
    least: int = 30
    """Losses of each arm before there is a verdict."""
    max_loss_s: float = 60.0
    """Longer ones, and failures, count as this: a loss without bound has no mean to speak of."""
    open_s: float = 300.0
    """How long the heuristic decides alone."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 2 <= self.least <= self.window:
            raise ValueError(f"breaker.least is {self.least}, it must be in 2..window ({self.window})")
        check_positive(**{f"breaker.{name}": getattr(self, name) for name in ("max_loss_s", "open_s")})


class Losses:
    """The last losses of an arm, with their sums."""

    def __init__(self, window: int) -> None:
        self._losses: deque[float] = deque(maxlen=window)
        self._sum = self._squares = 0.0

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, loss_s: float) -> None:
        """Take one in; the oldest leaves."""
        losses = self._losses
        if len(losses) == losses.maxlen:
            oldest = losses[0]
            self._sum -= oldest
            self._squares -= oldest * oldest
        losses.append(loss_s)
        self._sum += loss_s
        self._squares += loss_s * loss_s

    def clear(self) -> None:
        """Forget all."""
        self._losses.clear()
        self._sum = self._squares = 0.0

    @property
    def mean(self) -> float:
        """Their mean, 0 without any."""
        return self._sum / max(len(self._losses), 1)

    @property
    def squared_error(self) -> float:
        """Estimated variance of the mean, 0 for fewer than two."""
        num = len(self._losses)
        if num < 2:
            return 0.0
        return max(self._squares - self._sum * self._sum / num, 0.0) / (num - 1) / num


class Breaker:
    """Says whether the policy may decide."""

    def __init__(self, settings: BreakerSettings) -> None:
        self.settings = settings
        self.losses: dict[Arm, Losses] = {arm: Losses(settings.window) for arm in ("policy", "heuristic")}
        self.num_opened = 0
        self._opened_at_s: float | None = None
        self._is_on_trial = False

    def state(self, now_s: float) -> State:
        """``closed``: trusted. ``open``: the heuristic decides alone. ``half_open``: it is on trial."""
        if self._opened_at_s is not None and now_s - self._opened_at_s >= self.settings.open_s:
            self._opened_at_s, self._is_on_trial = None, True
            for losses in self.losses.values():
                losses.clear()
        if self._opened_at_s is not None:
            return "open"
        return "half_open" if self._is_on_trial else "closed"

    def observe(self, arm: Arm, loss_s: float, now_s: float) -> None:
        """Take in what a request took; NaN or infinite: it failed."""
        settings = self.settings
        self.losses[arm].add(min(loss_s, settings.max_loss_s) if isfinite(loss_s) else settings.max_loss_s)
        if self.state(now_s) == "open":
            return
        policy, heuristic = self.losses["policy"], self.losses["heuristic"]
        if min(len(policy), len(heuristic)) < settings.least:
            return
        error = sqrt(policy.squared_error + heuristic.squared_error)
        if policy.mean - heuristic.mean > max(Z * error, 1e-9):
            self._opened_at_s, self._is_on_trial = now_s, False
            self.num_opened += 1
        else:
            self._is_on_trial = False

    def reset(self) -> None:
        """Trust again, as after another policy was loaded."""
        self._opened_at_s, self._is_on_trial = None, False
        for losses in self.losses.values():
            losses.clear()
