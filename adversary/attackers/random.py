"""Chance: at every step each knob anywhere within its bounds, as far as the budget lets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adversary.attack import NOISE, POSITIONS
from adversary.attackers.attacker import Result
from adversary.attackers.found import worst_of
from adversary.feature.random_liar import RandomLiar
from adversary.game import Game, WorldGame
from adversary.threat import UnitPositions


class Random:
    """One random attack, another on each stream; it knows no victim."""

    is_targeted = False

    def unfit(self, game: Game) -> str:
        """It plays any game."""
        return ""

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Look for nothing."""
        return Result({"kind": NOISE, "seed": seed})


class WorstOfRandom:
    """Of ``num_evaluations`` random attacks the one that does the most harm."""

    is_targeted = True

    def __init__(self, num_evaluations: int) -> None:
        if num_evaluations < 1:
            raise ValueError(f"num_evaluations is {num_evaluations}, it must be at least 1")
        self.num_evaluations = num_evaluations

    def unfit(self, game: Game) -> str:
        """It plays any game."""
        return ""

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Try them all."""
        if isinstance(game, WorldGame):
            rng = np.random.default_rng(seed)
            shape = game.num_steps, len(game.knobs)
            draws = [rng.uniform(-1.0, 1.0, shape) for _ in range(self.num_evaluations)]
            units = UnitPositions(game.knobs)
            found = worst_of(draws, lambda rows: game.harm_of(units.values(rows)))
            assert found.best is not None
            return Result({"kind": POSITIONS, "rows": found.best.tolist()}, found.harm, tuple(found.curve))
        seeds = [seed * self.num_evaluations + place for place in range(self.num_evaluations)]
        worst = worst_of(seeds, lambda each: game.harm_of(RandomLiar(game.knobs, each)))
        return Result({"kind": NOISE, "seed": worst.best}, worst.harm, tuple(worst.curve))
