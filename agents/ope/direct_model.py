"""Models of what a decision costs, by the encoded row of the instance it goes to.

Like the policies, a model is shared by all instances: it knows them by their features, not by their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.bandits.buffers import Samples
from agents.bandits.predictor import MIN_STD, Training
from agents.hyperparameters import check_positive
from agents.ope.logged import Logged
from envs.observation import encode

Rows = NDArray[np.float32]
Array = NDArray[np.float64]

BIN_SIZE = 50
"""Samples in a bin of calibration."""


class DirectModel(Protocol):
    """Learns the mean cost of rows."""

    def fit(self, rows: Rows, cost: Array, seed: int) -> Callable[[Rows], Array]:
        """Fit to ``rows`` ``[num_samples, num_features]`` and what they cost; return the prediction.

        The prediction takes rows ``[..., num_features]`` to costs ``[...]``.
        """
        ...


class Linear:
    """Ridge regression: in an instant, and as right as costs are linear in the encoded features.

    Args:
        ridge: Precision of the weights of standardised features before the first sample.
    """

    def __init__(self, ridge: float = 1.0) -> None:
        check_positive(ridge=ridge)
        self.ridge = ridge

    def fit(self, rows: Rows, cost: Array, seed: int) -> Callable[[Rows], Array]:
        """Fit by the normal equations; the intercept is not shrunk. Nothing is left to chance."""
        mean, std = _scale(rows)
        standard = (rows - mean) / std
        precision = standard.T @ standard + self.ridge * np.eye(rows.shape[1])
        middle = cost.mean()
        weights = np.linalg.solve(precision, standard.T @ (cost - middle))
        return lambda rows: np.asarray(middle + ((rows - mean) / std) @ weights)


class Network:
    """Lodestar's network, for costs that are not linear in the features.

    Of costs that are all above 0 (latencies) it learns the logarithm: they span orders of magnitude, and
    squared seconds would be all about the longest queues, where few policies go. Of others (SLO misses) it
    learns the cost itself. Samples in order of what is predicted, in bins of equal number, then tell the mean
    cost that belongs to a prediction (histogram binning: Zadrozny & Elkan 2001), linear in between.

    Args:
        training: Of the network; its ``target`` follows from the costs as said.
    """

    def __init__(self, training: Training) -> None:
        self.training = replace(training, target="seconds")

    def fit(self, rows: Rows, cost: Array, seed: int) -> Callable[[Rows], Array]:
        """Train from scratch."""
        target = np.log(cost) if cost.min() > 0 else cost
        standard = (target - target.mean()) / max(float(target.std()), MIN_STD)
        predictor = self.training.train(Samples(rows, standard.astype(np.float32)), seed)
        predicted = -predictor.predict(rows).astype(np.float64)
        bins = np.array_split(np.argsort(predicted, kind="stable"), max(len(cost) // BIN_SIZE, 1))
        levels = np.array([predicted[each].mean() for each in bins])
        costs = np.array([cost[each].mean() for each in bins])
        return lambda rows: np.interp(-predictor.predict(rows).astype(np.float64), levels, costs)


def _scale(rows: Rows) -> tuple[Array, Array]:
    mean, std = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    std[std < MIN_STD] = 1.0
    return mean, std


def folds(episode: NDArray[np.int64], block: NDArray[np.int64], num_folds: int) -> NDArray[np.int64]:
    """Number of the fold that each decision belongs to, ``[num_decisions]``.

    A fold holds whole episodes where there are enough of them, else whole stretches of time: neighbours,
    which met the same queues, are not on either side but for the stretches' ends.

    Args:
        episode: Of each decision, from 0.
        block: The stretch of each decision, from 0 (``agents.ope.intervals.blocks``).
        num_folds: How many to make, from 2.
    """
    unit = episode if len(np.unique(episode)) >= num_folds else block
    ranks = np.unique(unit, return_inverse=True)[1]
    if ranks.max() + 1 < num_folds:
        raise ValueError(
            f"num_folds is {num_folds}, and there are {ranks.max() + 1} stretches of decisions to make them"
            " of: record more, or ask for fewer"
        )
    fold: NDArray[np.int64] = ranks % num_folds
    return fold


def cross_fitted(model: DirectModel, logged: Logged, fold: NDArray[np.int64], seed: int) -> Array:
    """What the model, fitted to the other folds, expects each instance to cost.

    So no decision is judged by a model that knows its outcome, which doubly robust estimates want
    (Chernozhukov et al. 2018).

    Args:
        model: What is fitted.
        logged: Decisions whose outcomes are all known.
        fold: Of each decision, from 0.
        seed: Of the fits.

    Returns:
        ``[num_decisions, max_instances]``, 0 where masked.
    """
    rows = encode(logged.instances, logged.request, logged.mask)
    chosen = rows[np.arange(len(logged)), logged.instance]
    predicted = np.zeros(logged.mask.shape)
    for number in range(int(fold.max()) + 1):
        out = fold == number
        fitted = model.fit(chosen[~out], logged.cost[~out], seed + number)
        predicted[out] = fitted(rows[out])
    return np.where(logged.mask, predicted, 0.0)
