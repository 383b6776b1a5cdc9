"""What was added up lately."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Sequence

from envs.feedback import Feedback


class Window:
    """Sums by key over the last seconds.

    A policy is told no time but by its outcomes: now is the latest instant at which a request is known to
    have ended, so that the window moves on with the completions.

    Args:
        length_s: How long an amount counts.
    """

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self.began_at_s, self.now_s = math.inf, -math.inf
        """The first arrival and the last end that are known; infinite before the first outcome."""
        self.totals: defaultdict[int, float] = defaultdict(float)
        """Key -> sum of the amounts in the window."""
        self.counts: Counter[int] = Counter()
        """Key -> how many amounts that are."""
        self._added: deque[tuple[float, int, float]] = deque()  # (at_s, key, amount), oldest first

    def advance(self, completions: Sequence[Feedback]) -> None:
        """Move on to where these outcomes say that time stands; forget what is too old then."""
        for feedback in completions:
            self.began_at_s = min(self.began_at_s, feedback.arrived_at_s)
            if math.isfinite(feedback.e2e_s):
                self.now_s = max(self.now_s, feedback.arrived_at_s + feedback.e2e_s)
        while self._added and max(self._added[0][0], self.began_at_s) <= self.now_s - self.length_s:
            _, key, amount = self._added.popleft()
            self.counts[key] -= 1
            self.totals[key] -= amount
            if not self.counts[key]:  # so that no rounding is left of what is gone
                del self.counts[key], self.totals[key]

    def add(self, key: int, amount: float) -> None:
        """Add an amount now; what comes before the first outcome counts from the first arrival on."""
        self._added.append((self.now_s, key, amount))
        self.totals[key] += amount
        self.counts[key] += 1
