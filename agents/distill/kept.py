"""How much of a teacher's gain over the best rule its student keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.comparison import Estimate, bootstrap


def best_rule(results: pd.DataFrame, rules: list[str]) -> str:
    """The rule of lowest mean TTFT. It is chosen on the streams it is compared on, which is in its favour."""
    means = results[results["policy"].isin(rules)].groupby("policy", sort=False)["ttft_mean_s"].mean()
    return str(means.idxmin())


def kept(results: pd.DataFrame, student: str, teacher: str, rule: str, figure: str) -> Estimate:
    """(rule - student) / (rule - teacher) of the means over seeds, with its paired bootstrap interval.

    1: the student is as much better than the rule as the teacher is. It is NaN where the teacher is no better
    than the rule, its interval where that is so in some of the resamples.

    Args:
        results: One row per policy and seed.
        student: Name of a policy.
        teacher: Likewise.
        rule: Likewise.
        figure: Column of ``results``; the less the better.
    """
    table = results.pivot(index="seed", columns="policy", values=figure)
    samples = tuple(table[name].to_numpy(np.float64) for name in (student, teacher, rule))
    return bootstrap(samples, _share, float(_share(*samples, axis=-1)), 0)


def _share(
    student: NDArray[np.float64], teacher: NDArray[np.float64], rule: NDArray[np.float64], axis: int
) -> Any:
    gain = rule.mean(axis=axis) - teacher.mean(axis=axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            (rule.mean(axis=axis) - student.mean(axis=axis)) / np.where(gain > 0.0, gain, np.nan)
        )
