"""A sum that forgets the past."""

from __future__ import annotations

from math import exp2, log


class Fading:
    """A sum that forgets: what was added ``half_life_s`` ago counts half."""

    def __init__(self, half_life_s: float) -> None:
        self.half_life_s = half_life_s
        self.amount, self.at_s = 0.0, 0.0

    def add(self, amount: float, now_s: float) -> None:
        """Add an amount now."""
        self.amount = self.now(now_s) + amount
        self.at_s = now_s

    def now(self, now_s: float) -> float:
        """The sum as it stands now."""
        return self.amount * exp2((self.at_s - now_s) / self.half_life_s)

    def per_s(self, now_s: float) -> float:
        """The rate whose steady flow would make this sum, per second."""
        return self.now(now_s) * log(2.0) / self.half_life_s
