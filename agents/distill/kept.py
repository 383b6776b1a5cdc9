"""How much of a teacher's gain over the best rule its student keeps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.comparison import Estimate, bootstrap, relative_difference


def best_rule(results: pd.DataFrame, rules: list[str]) -> str:
    """The rule of lowest mean TTFT. It is chosen on the streams it is compared on, which is in its favour.

    Raises ``ValueError`` where none of them served requests on all of these.
    """
    means = results.pivot(index="seed", columns="policy", values="ttft_mean_s")[rules].mean(skipna=False)
    if means.isna().all():
        raise ValueError(
            f"rules: none of {', '.join(rules)} served requests on every stream, so there is nothing to"
            " compare with; add another with +agent@rules.NAME=OPTION, or ask for less of the fleet"
        )
    return str(means.idxmin())


def kept(results: pd.DataFrame, student: str, teacher: str, rule: str, figure: str) -> Estimate:
    """(rule - student) / (rule - teacher) of the means over seeds, with its paired bootstrap interval.

    1: the student is as much better than the rule as the teacher is. NaN where the teacher is not better;
    without interval where it is not clearly better (``agents.comparison.relative_difference``).

    Args:
        results: One row per policy and seed.
        student: Name of a policy.
        teacher: Likewise.
        rule: Likewise.
        figure: Column of ``results``; the less the better.
    """
    table = results.pivot(index="seed", columns="policy", values=figure)
    own, taught_by, other = (table[name].to_numpy(np.float64) for name in (student, teacher, rule))
    gain = relative_difference(taught_by, other)
    value = float(_share(own, taught_by, other, axis=-1)) if gain.value < 0.0 else float("nan")
    if not gain.high < 0.0:
        return Estimate(value, float("nan"), float("nan"))
    return bootstrap((own, taught_by, other), _share, value, 0)


def _share(
    student: NDArray[np.float64], teacher: NDArray[np.float64], rule: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    least = rule.mean(axis=axis)
    return np.asarray((least - student.mean(axis=axis)) / (least - teacher.mean(axis=axis)))
