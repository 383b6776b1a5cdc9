"""How large an attack must be before a router is clearly behind another.

Behind is who has the higher mean TTFT, where the paired 95 % interval of the difference over the seeds leaves
out zero; over one seed there is no interval, and nobody is behind. Who served nobody, and has no TTFT for it,
is behind all who served somebody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adversary.harm import Floats
from agents.comparison import relative_difference


def is_behind(ttft_s: Floats, others_s: Floats) -> bool:
    """Whether one router is clearly behind another; mean TTFT over the same seeds, ``[num_seeds]``."""
    mean_s, other_s = rank(ttft_s.mean()), rank(others_s.mean())
    if not mean_s > other_s:
        return False
    return mean_s == np.inf or relative_difference(ttft_s, others_s).low > 0.0


def behind_from(
    epsilons: Sequence[float], curve: Sequence[Floats], others: Sequence[Sequence[Floats]]
) -> float | None:
    """The first of the shares played at which a router is clearly behind the best of others; None: at none.

    Args:
        epsilons: Shares of the bounds, rising; 0: in peace.
        curve: Mean TTFT at each share, ``[num_seeds]``.
        others: The same of those it is compared with. Who is best is judged at each share, by the mean.
    """
    for place, epsilon in enumerate(epsilons):
        best = min((other[place] for other in others), key=lambda held: rank(held.mean()), default=None)
        if best is not None and is_behind(curve[place], best):
            return float(epsilon)
    return None


def rank(mean_s: float) -> float:
    """A mean TTFT for comparisons: where nobody was served, it is worse than any."""
    return float(mean_s) if np.isfinite(mean_s) else np.inf
