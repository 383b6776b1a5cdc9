"""Lodestar's feature of how fresh a match is: a prefix that was sent long ago may be evicted by now."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.observation import ENCODED_NAMES

HIT, AGE = ENCODED_NAMES.index("frac_prefix_hit"), ENCODED_NAMES.index("prefix_age_s")
"""Columns of encoded rows."""


def with_freshness(rows: Any, half_life_s: float) -> Any:
    """Append ``frac_prefix_hit * 2^(-prefix_age_s / half_life_s)``: the authors' ``kv_hit_ratio_fresh``.

    As there, the match itself stays a feature beside it.

    Args:
        rows: Encoded, float32 ``[num_rows, num_encoded]``; may be traced.
        half_life_s: The authors' is 15 s.

    Returns:
        ``[num_rows, num_encoded + 1]``.
    """
    age_s = np.exp(rows[:, AGE]) - np.float32(1.0)  # it is encoded as log1p
    fresh = rows[:, HIT] * np.exp(age_s * np.float32(-np.log(2.0) / half_life_s))
    return np.concatenate([rows, fresh[:, None]], axis=1)
