"""Estimates of what a policy costs per decision, from decisions that another one made.

Decision i saw x_i, chose a_i with probability p(a_i | x_i) and cost c_i; the policy that is evaluated would
choose a with probability π(a | x_i). With the weight w_i = π(a_i | x_i) / p(a_i | x_i) and a model q(x, a) of
the cost, the estimates are, in the order of Dudík, Langford & Li (2011) and Swaminathan & Joachims (2015):

    IPS     Σ w_i c_i / n                                 unbiased, of great variance
    SNIPS   Σ w_i c_i / Σ w_i                             a little biased, whatever the zero of the cost
    DM      Σ_i Σ_a π(a | x_i) q(x_i, a) / n              as biased as the model
    DR      DM + Σ w_i (c_i - q(x_i, a_i)) / n            unbiased where the weights or the model are right

Each is a ratio of two sums over decisions, which is how they are returned and how ``agents.ope.intervals``
takes them. All are about a *one-step* deviation: see ``agents.ope.__main__``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Ratio(NamedTuple):
    """An estimate: the sum of the one over the sum of the other, each ``[num_decisions]``."""

    numerator: Array
    denominator: Array

    @property
    def value(self) -> float:
        """The estimate; NaN where there is nothing below the line."""
        below = float(self.denominator.sum())
        return float(self.numerator.sum()) / below if below != 0 else float("nan")


def weights(
    target: Array, propensities: Array, instance: NDArray[np.int64], max_weight: float | None = None
) -> Array:
    """π(a_i | x_i) / p(a_i | x_i) of what was chosen, ``[num_decisions]``.

    Args:
        target: π, ``[num_decisions, max_instances]``.
        propensities: p, likewise; above 0 where an instance was chosen.
        instance: a, ``[num_decisions]``.
        max_weight: Greater weights are cut to this one (Ionides 2008): less variance, and a bias, since what
            the policy would do where it was rarely done then counts less than its share. IPS of a positive
            cost comes out too low; DR's error is what its model does not know of those decisions.
    """
    if not target.shape == propensities.shape == (len(instance), target.shape[-1]):
        raise ValueError(
            f"target {target.shape}, propensities {propensities.shape} and instance {instance.shape} do not"
            " fit: they must be [num_decisions, max_instances], twice, and [num_decisions]"
        )
    rows = np.arange(len(instance))
    if not (propensities[rows, instance] > 0).all():
        raise ValueError("propensities: that of a chosen instance is not above 0")
    ratio: Array = target[rows, instance] / propensities[rows, instance]
    return ratio if max_weight is None else np.minimum(ratio, max_weight)


def unsupported(target: Array, propensities: Array) -> Array:
    """The share of each decision that is on instances which could not have been chosen, ``[num_decisions]``.

    Of what those cost nothing was recorded: IPS takes it to be 0, SNIPS to be like the rest, and only a
    model says something of it.
    """
    share: Array = np.where(propensities > 0, 0.0, target).sum(axis=1)
    return share


def ips(weight: Array, cost: Array) -> Ratio:
    """Inverse propensity scoring; arguments and results are per decision."""
    return Ratio(weight * cost, np.ones(len(cost)))


def snips(weight: Array, cost: Array) -> Ratio:
    """The same, normalised by the weights themselves."""
    return Ratio(weight * cost, weight)


def direct(target: Array, predicted: Array) -> Ratio:
    """The direct method: what a model expects.

    Args:
        target: π, ``[num_decisions, max_instances]``.
        predicted: q, likewise; finite.
    """
    return Ratio((target * predicted).sum(axis=1), np.ones(len(target)))


def doubly_robust(
    weight: Array, cost: Array, target: Array, predicted: Array, instance: NDArray[np.int64]
) -> Ratio:
    """The direct method, corrected by what the model missed where the recording can tell.

    ``predicted`` of a decision must come of a model that was not fitted to its outcome.
    """
    missed = cost - predicted[np.arange(len(instance)), instance]
    expected = direct(target, predicted)
    return Ratio(expected.numerator + weight * missed, expected.denominator)


def effective_sample_size(weight: Array) -> float:
    """Kish's: how many decisions by the policy itself would tell as much, (Σ w)² / Σ w²."""
    total = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / total if total > 0 else 0.0
