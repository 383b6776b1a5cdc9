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


class Odd:
    """A user's term, which knows nothing of arrays."""

    unit = "1"

    def __call__(self, interval):
        return interval.duration_s if len(interval.e2e_s) else 0.5


def test_many_intervals_give_what_each_gives_alone():
    rng = np.random.default_rng(0)
    intervals = [
        Interval(
            *rng.random(3).tolist(), *rng.random((3, num)), rng.random(num) < 0.5, rng.integers(0, 99, num)
        )
        for num in (0, 3, 20, 1)
    ]
    terms = {str(number): Weighted(term, 0.1 + number / 7) for number, (term, _) in enumerate(CASES)}
    reward = WeightedSum(terms | {"odd": Weighted(Odd(), 3)})
    integrals = Interval(*np.array([interval[:3] for interval in intervals]).T)
    which = np.array([True, True, False, True])
    asked = []
    rewards, amounts = reward.of_many(
        integrals, which, lambda number: asked.append(number) or intervals[number]
    )
    assert asked == [0, 1, 3]
    assert amounts.keys() == reward.terms.keys()
    for number in (0, 1, 3):
        expected, parts = reward(intervals[number])
        assert rewards[number] == expected
        assert {name: amount[number] for name, amount in amounts.items()} == parts
    assert rewards[2] == 0
    assert not any(amount[2] for amount in amounts.values())


def test_terms_of_integrals_alone_ask_for_no_interval():
    reward = WeightedSum({"ttft": Weighted(Ttft()), "e2e": Weighted(E2e(), 2.0)})
    integrals = Interval(np.ones(2), np.array([1.0, 2.0]), np.array([3.0, 5.0]))
    rewards, _ = reward.of_many(integrals, np.ones(2, np.bool_), None)
    assert rewards.tolist() == [-7.0, -12.0]
