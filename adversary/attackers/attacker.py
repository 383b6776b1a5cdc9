"""The contract of everything that finds attacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from adversary.game import Game


class Result(NamedTuple):
    """What was found."""

    how: Mapping[str, Any]
    """As ``adversary.attack.Attack`` has it."""
    harm: float | None = None
    curve: tuple[float, ...] = ()


class Attacker(Protocol):
    """Finds an attack against a victim; settings in its constructor, so that config can choose them."""

    @property
    def is_targeted(self) -> bool:
        """Whether it looks at the victim at all."""
        ...

    def unfit(self, game: Game) -> str:
        """Why it cannot play this game; empty: it can."""
        ...

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Look for an attack. All chance comes from ``seed``; a model, if there is one, goes to a file."""
        ...
