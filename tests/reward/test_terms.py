from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from conf.build import build
from reward.e2e import E2e
from reward.goodput import Goodput
from reward.interval import Interval
from reward.slo_miss import SloMiss
from reward.tpot import Tpot
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

INTERVAL = Interval(
    duration_s=2.0,
    waiting_request_s=3.0,  # e.g. two requests waited the whole interval, one less for half of it
    in_flight_request_s=7.0,
    ttft_s=np.array([0.5, 1.5]),
    tpot_s=np.array([0.01, 0.03]),
    e2e_s=np.array([1.0, 4.0]),
    slo_met=np.array([True, False]),
    num_output_tokens=np.array([10, 20]),
)

CASES = [
    (Ttft(), -3.0),
    (Ttft("at_completion"), -2.0),
    (E2e(), -7.0),
    (E2e("at_completion"), -5.0),
    (Tpot(), -0.04),
    (SloMiss(), -1.0),
    (Goodput(), 10.0),
]


@pytest.mark.parametrize(("term", "amount"), CASES)
def test_amount_computed_by_hand(term, amount):
    assert term(INTERVAL) == pytest.approx(amount)
    assert term(Interval()) == 0.0
    assert term.unit


def test_weighted_sum_and_its_breakdown():
    reward = WeightedSum({"ttft": Weighted(Ttft(), 2.0), "goodput": Weighted(Goodput(), 0.1)})
    total, amounts = reward(INTERVAL)
    assert total == pytest.approx(2.0 * -3.0 + 0.1 * 10.0)
    assert amounts == {"ttft": -3.0, "goodput": 10.0}
    assert reward.units == {"ttft": "request·s", "goodput": "tokens"}


def test_bad_config_is_named():
    with pytest.raises(ValueError, match="attribution is 'later'"):
        Ttft("later")
    with pytest.raises(ValueError, match="no terms"):
        WeightedSum({})
    with pytest.raises(ValueError, match="weight is nan"):
        Weighted(Ttft(), float("nan"))


@pytest.mark.parametrize("path", sorted(Path("conf/reward").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_a_reward(path):
    total, amounts = build(OmegaConf.load(path), "reward")(INTERVAL)
    assert np.isfinite(total)
    assert amounts
