"""When one router is clearly behind another, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from adversary.break_even import behind_from, is_behind

NOBODY = np.array([np.nan, 1.0])


def held(*values):
    return np.array(values)


@pytest.mark.parametrize(
    ("own", "other", "behind"),
    [
        (held(2.0, 2.2, 2.1), held(1.0, 1.1, 1.2), True),
        (held(1.0, 1.1, 1.2), held(2.0, 2.2, 2.1), False),
        (held(1.0, 1.0), held(1.0, 1.0), False),
        (held(1.2, 8.2, 3.2), held(1.1, 8.1, 3.1), True),  # by little, but on every seed
        (held(0.9, 2.0, 0.9), held(1.0, 1.0, 1.0), False),  # by much, on one of three
        (held(9.0), held(1.0), False),  # one seed tells nothing
        (NOBODY, held(9.0, 9.0), True),
        (held(9.0, 9.0), NOBODY, False),
        (NOBODY, NOBODY, False),
    ],
)
def test_behind_is_who_is_clearly_behind(own, other, behind):
    assert is_behind(own, other) is behind


def test_the_first_share_played_at_which_it_is_clearly_behind():
    shares = [0.0, 0.5, 1.0]
    curve = [held(1.0, 1.0), held(0.9, 4.0), held(3.0, 4.0)]
    flat = [held(2.0, 2.0)] * 3
    assert behind_from(shares, curve, [flat]) == 1.0  # at a half its mean is above, not clearly
    assert behind_from(shares, curve, [[held(9.0, 9.0)] * 3]) is None
    assert behind_from(shares, curve, [[held(9.0, 9.0)] * 3, [held(0.5, 0.5)] * 3]) == 0.0  # the best of them
    assert behind_from(shares, curve, [[NOBODY] * 3]) is None
    assert behind_from(shares, curve, []) is None
