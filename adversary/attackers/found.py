"""What an attacker found, and what it cost: the same for all attackers, so that they can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Candidate = TypeVar("Candidate")


@dataclass
class Found(Generic[Candidate]):
    """The best candidate so far, after so many evaluations of the victim (episodes that it routed)."""

    best: Candidate | None = None
    harm: float = -float("inf")
    curve: list[float] = field(default_factory=list)
    """The greatest harm after each evaluation, ``[num_evaluations]``."""

    def take(self, candidate: Candidate, harm: float) -> None:
        """Note a candidate that was evaluated. Raises ``ValueError`` where its harm is not a number."""
        if harm != harm:
            raise ValueError(
                f"evaluation {len(self.curve)} of the victim gave a harm of {harm}: its episode has"
                " losses that are no numbers"
            )
        if harm > self.harm:
            self.best, self.harm = candidate, harm
        self.curve.append(self.harm)


def worst_of(candidates: Iterable[Candidate], harm: Callable[[Candidate], float]) -> Found[Candidate]:
    """Evaluate every candidate: of N random attacks, the worst."""
    found: Found[Candidate] = Found()
    for candidate in candidates:
        found.take(candidate, harm(candidate))
    return found
