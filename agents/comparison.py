"""Are two policies different? Paired bootstrap intervals over seeds, and tests of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float

    def plain(self) -> dict[str, float | None]:
        """As JSON holds it: None where there is no number, as of an interval over one seed."""
        return {name: float(each) if np.isfinite(each) else None for name, each in self._asdict().items()}


def mean_over_seeds(values: ArrayLike, seed: int = 0) -> Estimate:
    """Mean over seeds, ``[num_seeds]``, with its bootstrap interval."""
    sample = np.asarray(values, np.float64)
    return bootstrap((sample,), _mean, float(sample.mean()), seed)


def relative_difference(values: ArrayLike, reference: ArrayLike, seed: int = 0) -> Estimate:
    """``mean(values) / mean(reference) - 1`` over the same seeds, with its paired bootstrap interval.

    The interval is the percentile bootstrap's (scipy), at 95 %. With few seeds it is a little too narrow:
    read a bound close to zero as undecided.
    """
    sample, other = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if sample.shape != other.shape or sample.ndim != 1:
        raise ValueError(f"paired samples must have one length, not shapes {sample.shape} and {other.shape}")
    return bootstrap((sample, other), _ratio, float(sample.mean() / other.mean() - 1), seed)


def share_of_gap_closed(values: ArrayLike, rule: ArrayLike, bound: ArrayLike, seed: int = 0) -> Estimate:
    """How much of the way from a rule to a bound a policy goes, over the same seeds, with its interval.

    0: it is as the rule; 1: as the bound; below 0: worse than the rule. All are figures of which less is
    better, ``[num_seeds]``, such as the mean TTFT; the share is that of their means over seeds, so that
    seeds in which there is little to gain count little. NaN where the bound is not below the rule: there is
    no gap.

    Args:
        values: The policy's.
        rule: Of the rule that it is held against.
        bound: Of what is known to be possible (``agents.bound``), or known to be impossible to beat.
        seed: Of the resampling.
    """
    samples = tuple(np.asarray(each, np.float64) for each in (values, rule, bound))
    if len({sample.shape for sample in samples}) > 1 or samples[0].ndim != 1:
        shapes = ", ".join(str(sample.shape) for sample in samples)
        raise ValueError(f"paired samples must have one length, not shapes {shapes}")
    return bootstrap(samples, _share, float(_share(samples[0], samples[1], samples[2], axis=0)), seed)


def _share(
    sample: NDArray[np.float64], rule: NDArray[np.float64], bound: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    gap = rule.mean(axis=axis) - bound.mean(axis=axis)
    closed = rule.mean(axis=axis) - sample.mean(axis=axis)
    return np.asarray(np.divide(closed, gap, out=np.full(np.shape(gap), np.nan), where=gap > 0.0))


def _mean(sample: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(sample.mean(axis=axis))


def _ratio(sample: NDArray[np.float64], other: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(sample.mean(axis=axis) / other.mean(axis=axis) - 1)


def p_value(values: ArrayLike, reference: ArrayLike) -> float:
    """Chance of a difference at least this great where there is none: paired t-test of logarithms (scipy).

    Of positive figures of the same streams, ``[num_seeds]`` each. NaN for one seed, 1 where all are equal.
    """
    difference = np.log(np.asarray(values, np.float64)) - np.log(np.asarray(reference, np.float64))
    if len(difference) < 2 or np.isnan(difference).any():
        return float("nan")
    if not difference.any():
        return 1.0
    if np.ptp(difference) <= 1e-9 * np.abs(difference).max():  # by which the t-test would divide
        return 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct for having made so many tests: Holm's step-down p-values, in the order given.

    Rejecting where one is at most alpha, the chance of any false rejection is at most alpha (Holm 1979). NaN,
    of a test that could not be made, stays so, and counts as a test.
    """
    known = [index for index, p in enumerate(p_values) if not np.isnan(p)]
    order = sorted(known, key=lambda index: p_values[index])
    corrected, greatest = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = greatest
    return corrected


def bootstrap(
    samples: tuple[NDArray[np.float64], ...],
    statistic: object,
    value: float,
    seed: int,
    paired: bool = True,
) -> Estimate:
    """A figure with its interval: the percentile bootstrap's (scipy).

    The interval is NaN where there is one sample, or the figure is no number.

    Args:
        samples: Each ``[num_samples]``.
        statistic: Of the samples, along ``axis``.
        value: The figure.
        seed: Of the resampling.
        paired: Whether the samples are drawn together; else each by itself, as strata are.
    """
    if len(samples[0]) < 2 or not np.isfinite(value):  # a policy that served nobody has no latencies
        return Estimate(value, float("nan"), float("nan"))
    with np.errstate(invalid="ignore"):  # of the spread, which scipy looks at too, where a cost is infinite
        interval = stats.bootstrap(
            samples,
            statistic,
            paired=paired,
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
