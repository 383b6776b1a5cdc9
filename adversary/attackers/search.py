"""Black-box search by evolution (pycma's CMA-ES): any victim, differentiable or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adversary.attack import LINEAR, POSITIONS
from adversary.attackers.attacker import Result
from adversary.attackers.found import Found
from adversary.attackers.knots import Knots
from adversary.feature.linear import LinearLiar
from adversary.game import Game, WorldGame
from adversary.threat import UnitPositions, Values


class Search:
    """Evolves attacks with few parameters: lines between knots on the world, ``LinearLiar`` on features.

    Args:
        num_evaluations: Episodes of the victim that may be spent.
        num_knots: Instants at which an attack on the world is free (``Knots``).
        spread: Of the first candidates, around neutral; 1 is the bounds.
        weight: Greatest weight of a ``LinearLiar``.
    """

    is_targeted = True

    def __init__(
        self, num_evaluations: int, num_knots: int = 1, spread: float = 1.0, weight: float = 4.0
    ) -> None:
        if num_evaluations < 1 or num_knots < 1:
            raise ValueError(
                f"num_evaluations is {num_evaluations} and num_knots {num_knots}, they must be at least 1"
            )
        if not spread > 0 or not weight > 0:
            raise ValueError(f"spread is {spread} and weight {weight}, they must be more than 0")
        self.num_evaluations, self.num_knots = num_evaluations, num_knots
        self.spread, self.weight = spread, weight

    def unfit(self, game: Game) -> str:
        """It plays any game."""
        return ""

    def find(self, game: Game, seed: int, model_file: Path) -> Result:
        """Search."""
        rng = np.random.default_rng(seed)
        if isinstance(game, WorldGame):
            knots = Knots(game.num_steps, len(game.knobs), self.num_knots)
            units = UnitPositions(game.knobs)
            found = evolve(
                lambda vector: game.harm_of(units.values(knots.positions(vector))),
                knots.num_parameters,
                self.num_evaluations,
                rng,
                self.spread,
            )
            assert found.best is not None
            rows = knots.positions(found.best).tolist()
            return Result({"kind": POSITIONS, "rows": rows}, found.harm, tuple(found.curve))
        liar = LinearLiar(game.knobs)
        found = evolve(
            lambda vector: game.harm_of(liar.with_parameters(self.weight * vector)),
            liar.num_parameters,
            self.num_evaluations,
            rng,
            self.spread,
        )
        assert found.best is not None
        parameters = (self.weight * found.best).tolist()
        return Result({"kind": LINEAR, "parameters": parameters}, found.harm, tuple(found.curve))


def evolve(
    harm: Callable[[Values], float],
    num_parameters: int,
    num_evaluations: int,
    rng: np.random.Generator,
    spread: float = 0.7,
) -> Found[Values]:
    """Look for the vector in [-1, 1]^num_parameters of the greatest harm.

    Covariances are kept to the diagonal: with some hundred evaluations, no more can be learned.

    Args:
        harm: What an attack with these parameters does; called exactly ``num_evaluations`` times.
        num_parameters: Length of a vector.
        num_evaluations: Episodes of the victim that may be spent.
        rng: All chance.
        spread: Standard deviation of the first candidates, around 0.

    Raises:
        ModuleNotFoundError: pycma is not installed; names the extra.
    """
    if num_evaluations < 1:
        raise ValueError(f"num_evaluations is {num_evaluations}, it must be at least 1")
    try:
        import cma
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the search needs pycma: pip install 'routegym[robustness]'", name="cma"
        ) from error
    options: dict[str, Any] = {
        "bounds": [-1.0, 1.0],
        "CMA_diagonal": True,
        "verbose": -9,
        "seed": np.nan,  # pycma would seed NumPy's global generator
        "randn": lambda *shape: rng.standard_normal(shape),
        "maxfevals": np.inf,
        "tolfun": 0.0,
        "tolfunhist": 0.0,
        "tolflatfitness": np.inf,
    }
    found: Found[Values] = Found()
    if num_parameters == 1:  # pycma takes two parameters or more
        for position in np.linspace(1.0, -1.0, num_evaluations):
            found.take(np.array([position]), harm(np.array([position])))
        return found
    strategy = cma.CMAEvolutionStrategy(np.zeros(num_parameters), spread, options)
    while len(found.curve) < num_evaluations:
        candidates = strategy.ask()
        losses = []
        for candidate in candidates[: num_evaluations - len(found.curve)]:
            value = harm(candidate)
            found.take(candidate.copy(), value)
            losses.append(-value)
        if len(losses) == len(candidates):
            strategy.tell(candidates, losses)
    return found
