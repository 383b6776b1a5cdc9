"""Attacks along the gradient of a differentiable victim: nothing is looked for beforehand."""

from __future__ import annotations

from pathlib import Path

from adversary.attack import FGSM, PGD
from adversary.attackers.attacker import Result
from adversary.feature.gradient import Fgsm, Pgd
from adversary.game import FeatureGame, Game


class FgsmAttacker:
    """One step along the gradient's signs, at every decision."""

    is_targeted = True

    def unfit(self, game: Game) -> str:
        """It needs features and a victim with a gradient."""
        if not isinstance(game, FeatureGame):
            return "a world has no gradient: use search or rl"
        try:
            Fgsm(game.victim, game.threat, game.num_instances)
        except ValueError as error:
            return str(error)
        return ""

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Measure what it does."""
        assert isinstance(game, FeatureGame)
        harm = game.harm_of(lambda victim: Fgsm(victim, game.threat, game.num_instances))
        return Result({"kind": FGSM}, harm, (harm,))


class PgdAttacker(FgsmAttacker):
    """Several steps.

    Args:
        num_steps: At every decision.
    """

    def __init__(self, num_steps: int = 8) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}, it must be at least 1")
        self.num_steps = num_steps

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Measure what it does."""
        assert isinstance(game, FeatureGame)
        harm = game.harm_of(lambda victim: Pgd(victim, game.threat, game.num_instances, self.num_steps))
        return Result({"kind": PGD, "num_steps": self.num_steps}, harm, (harm,))
