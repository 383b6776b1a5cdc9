"""Black-box search by evolution (pycma's CMA-ES): any victim, differentiable or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adversary.attackers.found import Found
from adversary.threat import Values


def search(
    harm: Callable[[Values], float],
    num_parameters: int,
    num_evaluations: int,
    rng: np.random.Generator,
    spread: float = 0.7,
    population: int | None = None,
) -> Found[Values]:
    """Look for the vector in [-1, 1]^num_parameters of the greatest harm.

    Covariances are kept to the diagonal: with some hundred evaluations, no more can be learned.

    Args:
        harm: What an attack with these parameters does; called exactly ``num_evaluations`` times.
        num_parameters: Length of a vector.
        num_evaluations: Episodes of the victim that may be spent.
        rng: All chance.
        spread: Standard deviation of the first candidates, around 0.
        population: Candidates of a generation; null: pycma's default, 4 + 3 ln(num_parameters).

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
    if population is not None:
        options["popsize"] = population
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
