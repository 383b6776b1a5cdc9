"""What an attacker wants, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from adversary.harm import Losses, Naive, Primary, Relative

LOSSES = Losses(
    np.array([10, 10, 20]), np.array([5.0, 1.0, 34.0]), np.array([5.0, 5.0, 10.0]), np.array([4.0, 4.0, 12.0])
)
NOTHING = Losses(np.empty(0, np.int64), *(np.empty(0),) * 3)


def test_naive_is_the_mean_ttft():
    assert Naive()(LOSSES) == 1.0
    assert Naive()(LOSSES.until(2)) == 0.3


def test_relative_forgives_what_ruins_everybody():
    assert Relative()(LOSSES) == pytest.approx((40 - 20) / 40)
    ruined = Losses(LOSSES.num_requests, LOSSES.victim * 1000, LOSSES.victim * 1000, LOSSES.clean)
    assert Relative()(ruined) == 0.0


def test_primary_penalises_quiet_windows():
    # excess of the windows: 1, -3, 22. Only in the second are both the last and the last two below the clean.
    assert Primary(penalty=3.0, short=1, long=2)(LOSSES) == pytest.approx(20 / 40 - 3.0 / 3)
    assert Primary(penalty=0.0)(LOSSES) == pytest.approx(0.5)
    # over three windows the second is no longer quiet where the first was bad enough
    loud = LOSSES._replace(victim=np.array([50.0, 1.0, 34.0]))
    assert Primary(penalty=3.0, short=1, long=2)(loud) == pytest.approx(65 / 40)


@pytest.mark.parametrize("harm", [Naive(), Primary(), Relative()])
def test_nothing_done_is_no_harm(harm):
    assert harm(NOTHING) == 0.0


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="1 <= short <= long"):
        Primary(short=3, long=2)
