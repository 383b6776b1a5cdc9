"""Fit the table form of the step-time law to thousands of measured steps.

Three stages, without randomness:

1. The knots of the stairs: of all the token counts at which the linear layers were measured, those between
   which straight lines stay closest to the measured curve (dynamic programming over a high power of the
   relative error, so that no one count is far off). The curve is first made to rise, halfway between its
   running maximum and minimum.
2. The few thresholds inside ``max`` and ``min``, from short lists.
3. All other coefficients at once: the linear program that makes the mean and the worst relative error least
   with no coefficient below 0, which is what makes the law monotone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls
from scipy.sparse import block_array, csr_array, eye_array

from envs.emulator.step_time import StepTimeLaw

Floats = NDArray[np.float64]
NUM_KNOTS = 16
ERROR_POWER = 6
NUM_DIGITS = 6
"""Significant digits kept of a fitted number."""
NUM_LEADING, NUM_ADDED = 4000, 200
"""Steps that the linear program begins with, and how many more may join it at a time."""
NUM_RANKING = 2000
"""Steps by which thresholds are chosen."""
WORST_WEIGHT = 2.0
"""Of the worst error against the mean one."""
TOLERANCE = 1e-4
SEQUENCES = (0.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0)
NEAR = [(2.0**power, after) for power in range(9, 17) for after in SEQUENCES]
FIRST_AFTER = (0.0, 4096.0, 8192.0, 16384.0)
CHOICES: Mapping[str, Sequence[tuple[float, ...]]] = {
    "decode_least": [(64.0,), (128.0,), (256.0,), (512.0,), (1024.0,)],
    "decode_near": NEAR,
    "decode_more": NEAR,
    "decode_first": [(2.0**power, after) for power in range(12, 19) for after in FIRST_AFTER],
    "prefill_far": [(256.0,), (1024.0,), (2048.0,), (4096.0,), (8192.0,), (16384.0,)],
}
"""Term -> what its thresholds may be, in the order in which they are chosen."""
THRESHOLDS = {
    "decode_least": ("decode_least_tokens",),
    "decode_near": ("decode_near_tokens", "decode_near_after"),
    "decode_more": ("decode_more_tokens", "decode_more_after"),
    "decode_first": ("decode_first_tokens", "decode_first_after"),
    "prefill_far": ("prefill_far_pairs",),
}
"""Term -> the law's fields for them; what multiplies the term is the field of its name with ``_s``."""


def fit_law(num_tokens: Floats, linear_s: Floats, counts: Floats, measured_s: Floats) -> StepTimeLaw:
    """The law that fits best.

    Args:
        num_tokens: ``[num_points]`` token counts, rising, at which the linear layers were measured.
        linear_s: ``[num_points]`` seconds that they took.
        counts: ``[num_steps, 4]``: what ``step_time_s`` takes of each measured step.
        measured_s: ``[num_steps]`` seconds that each of them took.
    """
    knots = best_knots(num_tokens, linear_s, NUM_KNOTS)
    chosen = _best_thresholds(counts[:NUM_RANKING], measured_s[:NUM_RANKING], knots)
    columns = _plain_columns(counts, knots) | {
        f"{term}_s": _term(counts, term, at) for term, at in chosen.items()
    }
    coefficients = _least_errors(np.column_stack(list(columns.values())), measured_s)
    fitted = dict(zip(columns, coefficients, strict=True))
    fitted |= {f"knot_{number}_tokens": float(knot) for number, knot in enumerate(knots, 1)}
    for term, at in chosen.items():
        fitted |= dict(zip(THRESHOLDS[term], at, strict=True))
    zeros = dict.fromkeys(StepTimeLaw._fields[:6], 0.0)
    return StepTimeLaw(**zeros | {key: float(f"{value:.{NUM_DIGITS}g}") for key, value in fitted.items()})


def _best_thresholds(counts: Floats, measured_s: Floats, knots: Floats) -> dict[str, tuple[float, ...]]:
    """Of each term the thresholds that let the law fit best.

    They are chosen one term after the other, twice, so that what comes out depends on which is first: each
    is once.
    """
    plain = _plain_columns(counts, knots)
    terms = list(CHOICES)
    found = []
    for first in range(len(terms)):
        chosen: dict[str, tuple[float, ...]] = {}
        for term in 2 * (terms[first:] + terms[:first]):
            others = [_term(counts, name, at) for name, at in chosen.items() if name != term]
            fixed = [*plain.values(), *others]
            losses = [
                _quick_loss(np.column_stack([*fixed, _term(counts, term, at)]), measured_s)
                for at in CHOICES[term]
            ]
            chosen[term] = CHOICES[term][int(np.argmin(losses))]
        columns = [*plain.values(), *(_term(counts, term, at) for term, at in chosen.items())]
        relative = np.column_stack(columns) / measured_s[:, None]
        _, loss, _ = _solve(relative / np.maximum(relative.max(0), np.finfo(float).tiny), len(counts))
        found.append((loss, first, chosen))
    return min(found)[2]


def best_knots(x: Floats, y: Floats, num_knots: int) -> Floats:
    """The first ``num_knots`` of the ``num_knots + 1`` points whose polygon is closest to a curve.

    Both ends of the curve belong to the polygon, whose last point is no knot: its last side goes on for ever.
    """
    rising = np.sqrt(np.maximum.accumulate(y) * np.minimum.accumulate(y[::-1])[::-1])
    num = len(x)
    weights = np.gradient(np.log(x + 8))
    costs = np.full((num, num), np.inf)  # of the side from one point to another
    for start in range(num - 1):
        ends = np.arange(start + 1, num)
        slopes = (rising[ends] - rising[start]) / (x[ends] - x[start])
        lines = rising[start] + slopes[:, None] * (x[start:] - x[start])
        errors = np.abs(lines / y[start:] - 1) ** ERROR_POWER * weights[start:]
        costs[start, ends] = np.where(np.arange(start, num) <= ends[:, None], errors, 0).sum(1)
    best = np.where(np.arange(num) == 0, 0.0, np.inf)
    came_from = []
    for _ in range(num_knots):
        through = best[:, None] + costs
        came_from.append(np.argmin(through, 0))
        best = through.min(0)
    at, knots = num - 1, []
    for previous in reversed(came_from):
        at = int(previous[at])
        knots.append(x[at])
    return np.array(knots[::-1])


def _plain_columns(counts: Floats, knots: Floats) -> dict[str, Floats]:
    """Coefficient -> what it multiplies in each step, of those that have no threshold."""
    prefill_tokens, pairs, decodes, context = counts.T
    num_tokens = prefill_tokens + decodes
    ends = np.append(knots[1:], np.inf)
    stairs = {
        f"slope_{number}_s": np.clip(num_tokens, low, high) - low
        for number, (low, high) in enumerate(zip(knots, ends, strict=True), 1)
    }
    return {
        "overhead_s": np.ones(len(counts)),
        **stairs,
        "prefill_step_s": np.minimum(prefill_tokens, 1),
        "prefill_token_s": prefill_tokens,
        "prefill_attention_s": pairs,
        "decode_step_s": np.minimum(decodes, 1),
        "decode_sequence_s": decodes,
        "decode_context_s": context,
    }


def _term(counts: Floats, term: str, at: tuple[float, ...]) -> Floats:
    """What a term with these thresholds multiplies in each step."""
    prefill_tokens, pairs, decodes, context = counts.T
    if term == "prefill_far":
        return np.maximum(pairs, at[0] * prefill_tokens)
    if term == "decode_least":
        return np.maximum(context, at[0] * decodes)
    if term == "decode_first":
        return np.minimum(np.maximum(context - at[1], 0), at[0])
    return np.minimum(context, at[0] * np.maximum(decodes - at[1], 0))


def _quick_loss(columns: Floats, measured: Floats, num_rounds: int = 4) -> float:
    """About how well these columns can do: least squares, the worst steps weighing more each round."""
    weights = np.ones(len(measured))
    best = np.inf
    for _ in range(num_rounds):
        weighted = (weights / measured)[:, None] * columns
        scale = np.maximum(np.linalg.norm(weighted, axis=0), np.finfo(float).tiny)
        coefficients = nnls(weighted / scale, weights, maxiter=50 * columns.shape[1])[0] / scale
        errors = np.abs(columns @ coefficients / measured - 1)
        best = min(best, float(errors.mean() + errors.max()))
        weights *= np.sqrt(0.02 + errors)
        weights /= weights.mean()
    return best


def _least_errors(columns: Floats, measured: Floats) -> Floats:
    """The coefficients >= 0 that make mean plus worst relative error least.

    The mean is that of the first ``NUM_LEADING`` steps. Of the others only those come into the linear program
    that would be worse than its worst, a few at a time.
    """
    relative = columns / measured[:, None]
    scale = np.maximum(relative.max(0), np.finfo(float).tiny)
    relative /= scale
    num_leading = min(NUM_LEADING, len(measured))
    rows = np.arange(num_leading)
    while True:
        coefficients, _, worst = _solve(relative[rows], num_leading)
        errors = np.abs(relative @ coefficients - 1)
        errors[rows] = 0
        worse = np.argsort(-errors)[:NUM_ADDED]
        worse = worse[errors[worse] > worst + TOLERANCE]
        if len(worse) == 0:
            return coefficients / scale
        rows = np.concatenate([rows, worse])


def _solve(relative: Floats, num_leading: int) -> tuple[Floats, float, float]:
    """One linear program of ``_least_errors``: its coefficients, loss and worst error."""
    matrix = csr_array(relative)
    num_steps, num_columns = matrix.shape
    one_each, ones = eye_array(num_steps), csr_array(np.ones((num_steps, 1)))
    # the variables: coefficients, each step's error, the worst error
    bounds = block_array([[matrix, -one_each, None], [-matrix, -one_each, None], [None, one_each, -ones]])
    limits = np.concatenate([np.ones(num_steps), -np.ones(num_steps), np.zeros(num_steps)])
    costs = np.zeros(num_columns + num_steps + 1)
    costs[num_columns : num_columns + num_leading] = 1 / num_leading
    costs[-1] = WORST_WEIGHT
    solution = linprog(costs, A_ub=bounds, b_ub=limits, bounds=(0, None), method="highs")
    if not solution.success:
        raise RuntimeError(f"the linear program of the fit found no solution: {solution.message}")
    coefficients: Floats = solution.x[:num_columns]
    return coefficients, float(solution.fun), float(solution.x[-1])
