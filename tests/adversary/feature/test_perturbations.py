"""Each perturbation by hand, and for all of them what they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hypothesis import given, settings
from hypothesis import strategies as st

from adversary.feature.deception import Deception
from adversary.feature.delay import SPARE, Delay
from adversary.feature.drop import Drop
from adversary.feature.perturbation import columns_of
from adversary.feature.quantise import Quantise
from adversary.feature.scale import Scale
from adversary.feature.seen import mistakes
from adversary.feature.shift import Shift
from adversary.feature.spoof import Spoof
from adversary.feature.swap import Swap
from adversary.feature.threat import FeatureThreat
from adversary.threat import Budget, neutral
from adversary.validate import violations
from conf.build import build
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    INSTANCE_FEATURES,
    INSTANCE_HIGH,
    NUM_RUNNING,
    NUM_WAITING,
    REACHABLE,
    REQUEST_FEATURES,
)

CONFIGS = sorted(
    path.stem for path in (Path(__file__).parents[3] / "conf" / "adversary").glob("feature*.yaml")
)
TWO = ["num_waiting", "frac_kv_cache_usage"]


def threat_of(config, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return build(compose(f"adversary/{config}", list(overrides)).adversary, "adversary")


def fleet(*num_waiting, kv=0.5):
    instances = np.zeros((len(num_waiting), len(INSTANCE_FEATURES)), np.float32)
    instances[:, NUM_WAITING] = num_waiting
    instances[:, NUM_RUNNING] = 10
    instances[:, FRAC_KV_CACHE_USAGE] = kv
    return instances


def waiting(perturbation, values, instances, now_s=0.0):
    """The requests waiting as they are seen."""
    seen = instances.copy()
    perturbation.apply(seen, np.array(values, float), now_s)
    untouched = np.setdiff1d(np.arange(seen.shape[1]), perturbation.columns)
    assert np.array_equal(seen[:, untouched], instances[:, untouched])
    return seen[:, NUM_WAITING].tolist()


def test_what_an_attacker_reaches_is_what_instances_report():
    assert REACHABLE == ("num_waiting", "num_running", "frac_kv_cache_usage", "frac_prefix_hits")


def test_scale():
    scale = Scale(0.5, TWO)
    assert [knob.name for knob in scale.knobs(2)] == [
        "scale.num_waiting[0]",
        "scale.frac_kv_cache_usage[0]",
        "scale.num_waiting[1]",
        "scale.frac_kv_cache_usage[1]",
    ]
    seen = fleet(4, 10, kv=0.8)
    scale.apply(seen, np.array([0.5, 1.5, 1.5, 1.0]), 0.0)
    assert seen[:, NUM_WAITING].tolist() == [2, 15]
    assert seen[:, FRAC_KV_CACHE_USAGE].tolist() == pytest.approx([1.0, 0.8])  # 1.2 is beyond the schema


def test_shift_stays_within_the_schema():
    assert waiting(Shift({"num_waiting": 8}), [-8, 3], fleet(4, 10)) == [0, 13]


def test_spoof():
    spoof = Spoof({"num_waiting": 64})
    assert waiting(spoof, [1, 0.5, 0, -0.5, -1, -1], fleet(8, 8, 8, 8, 8, 100)) == [0, 4, 8, 36, 64, 100]


def test_drop():
    assert waiting(Drop(["num_waiting"]), [1, 0], fleet(4, 10)) == [0, 10]


def test_quantise():
    quantise = Quantise({"num_waiting": 8})
    assert waiting(quantise, [1.0], fleet(3, 5, 13)) == [0, 8, 16]
    assert waiting(quantise, [0.25], fleet(3, 5, 13)) == [4, 4, 12]  # halves go to the even multiple
    assert waiting(quantise, [1e-300], fleet(3, 5, 13)) == [3, 5, 13]


def test_swap():
    swap = Swap(["num_waiting"])
    assert waiting(swap, [1, 0, 1, 0], fleet(1, 2, 3, 4)) == [3, 2, 1, 4]
    assert waiting(swap, [1, 1, 0, 1], fleet(1, 2, 3, 4)) == [4, 1, 3, 2]
    assert waiting(swap, [0, 1, 0, 0], fleet(1, 2, 3, 4)) == [1, 2, 3, 4]


def test_delay():
    delay = Delay(5.0, ["num_waiting"])
    for second in range(8):
        assert waiting(delay, [0, 0], fleet(second, 10 * second), second) == [second, 10 * second]
    assert waiting(delay, [3, 0], fleet(8, 80), 8.0) == [5, 80]
    assert waiting(delay, [3.5, 5], fleet(9, 90), 9.0) == [5, 40]
    delay.reset()
    assert waiting(delay, [3, 5], fleet(7, 7), 0.0) == [7, 7]  # the past of another episode is gone


def test_delay_forgets_what_it_will_not_show():
    delay = Delay(1.0, ["num_waiting"])
    for step in range(5 * SPARE):
        now_s = step / 128  # exact
        seen = waiting(delay, [0.5, 0], fleet(step, step), now_s)
        assert seen == [max(step - 64, 0), step]
    assert len(delay._past) < SPARE + 200


@given(
    config=st.sampled_from(CONFIGS),
    epsilon=st.sampled_from([0.1, 1.0]),
    max_slope=st.sampled_from([None, 0.35, 0.6]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_what_is_seen_keeps_to_the_threat(config, epsilon, max_slope, seed):
    """Whatever is wanted; looked at by the independent validator, on values and on what came of them."""
    rng = np.random.default_rng(seed)
    threat = threat_of(config)
    limit = threat.budget.max_instances
    threat = FeatureThreat(
        threat.perturbations, Budget(max_slope, 3, limit and limit + int(rng.integers(2))), epsilon
    )
    deception = Deception(threat, 5)
    true, seen, values = [], [], []
    for step in range(40):
        instances = np.zeros((6, len(INSTANCE_FEATURES)), np.float32)
        instances[:5] = np.minimum(rng.exponential(20, (5, len(INSTANCE_FEATURES))), INSTANCE_HIGH)
        look = {
            "instances": instances,
            "request": rng.random(len(REQUEST_FEATURES), np.float32),
            "mask": np.append(rng.random(5) < 0.8, False).astype(np.int8),
        }
        wanted = rng.choice([-1e9, -1.0, 0.0, 0.5, 1.0, 7.0], len(deception.knobs))
        held, shown = deception.lie(look, wanted, 0.5 * step)
        true.append(look), seen.append(shown), values.append(held)
    assert violations(deception.knobs, threat.budget, np.array(values)) == []
    assert mistakes(threat, true, seen) == []


def test_rounding_to_float32_is_no_mistake():
    threat = FeatureThreat([Spoof({"num_waiting": 64.0})], Budget(), 0.8001)
    deception = Deception(threat, 1)
    look = {"instances": fleet(0), "request": np.zeros(5), "mask": np.ones(1, np.int8)}
    seen = [deception.lie(look, np.array([wanted]), 0.0)[1] for wanted in np.linspace(-1, 0, 200)]
    assert float(seen[0]["instances"][0, NUM_WAITING]) > 1e-6 + 64.0 * 0.8001  # by a rounding
    assert mistakes(threat, [look] * 200, seen) == []


@pytest.mark.parametrize("config", CONFIGS)
def test_neutral_values_change_no_byte(config):
    rng = np.random.default_rng(3)
    threat = threat_of(config)
    deception = Deception(threat, 4)
    for step in range(5):
        instances = np.minimum(rng.exponential(9, (4, len(INSTANCE_FEATURES))), INSTANCE_HIGH)
        look = {
            "instances": instances.astype(np.float32),
            "request": np.zeros(5),
            "mask": np.ones(4, np.int8),
        }
        before = look["instances"].tobytes()
        _, seen = deception.lie(look, neutral(deception.knobs), float(step))
        assert seen["instances"].tobytes() == before == look["instances"].tobytes()


def test_every_perturbation_has_a_config():
    kinds = {perturbation.kind for config in CONFIGS for perturbation in threat_of(config).perturbations}
    assert kinds == {"scale", "shift", "delay", "drop", "quantise", "swap", "spoof"}
    assert threat_of("feature_scale_50").perturbations[0].share == 0.5
    assert threat_of("feature_spoof").budget.max_instances == 1


def test_the_validator_finds_what_is_put_in():
    threat = FeatureThreat([Scale(0.1, ["num_waiting"])], Budget(max_instances=1))
    look = {"instances": fleet(10, 10, 10), "request": np.zeros(5), "mask": np.array([1, 1, 0], np.int8)}

    def found(instance, column, value):
        seen = {**look, "instances": look["instances"].copy()}
        seen["instances"][instance, column] = value
        return sorted({mistake.rule for mistake in mistakes(threat, [look, look], [look, seen])})

    assert found(0, NUM_WAITING, 10.9) == []
    assert found(0, NUM_WAITING, 11.2) == ["scale"]
    assert found(0, NUM_RUNNING, 11) == ["untouched"]
    assert found(2, NUM_WAITING, 10.5) == ["untouched"]
    assert found(0, NUM_WAITING, -1) == ["scale", "schema"]
    assert found(0, NUM_WAITING, np.nan) == ["finite"]
    assert found([0, 1], NUM_WAITING, 9.5) == ["instances"]
    seen = {**look, "mask": np.ones(3, np.int8)}
    assert [mistake.what for mistake in mistakes(threat, [look], [seen])] == ["mask"]
    with pytest.raises(ValueError, match="1 true observations and 0 seen"):
        mistakes(threat, [look], [])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(0.1, ["num_wating"]), "no feature 'num_wating'; the nearest are num_waiting"),
        (lambda: Scale(0.1, ["num_prompt_tokens"]), "no feature 'num_prompt_tokens'"),
        (lambda: Scale(0.1, ["num_in_flight"]), "num_in_flight is measured .* allow_router_features: true"),
        (lambda: Scale(0.1, ["snapshot_age_s"]), "snapshot_age_s is measured"),
        (lambda: Scale(0.1, ["num_waiting"] * 2), "num_waiting is given twice"),
        (lambda: Scale(0.1, []), "name at least one"),
        (lambda: Scale(0.0), r"share is 0.0, it must be in \(0, 1\]"),
        (lambda: Shift({"num_waiting": -1}), "most of num_waiting is -1"),
        (lambda: Shift({}), "most is empty"),
        (lambda: Quantise({"num_waiting": float("inf")}), "most of num_waiting is inf"),
        (lambda: Spoof({"num_waitin": 3}), "no feature 'num_waitin'"),
        (lambda: Delay(0), "max_delay_s is 0"),
        (lambda: FeatureThreat([], Budget()), "has no knob"),
        (lambda: FeatureThreat([Drop(), Drop()], Budget()), r"two knobs are named drop\[0\]"),
        (lambda: FeatureThreat([Drop()], Budget(), 0), "epsilon is 0"),
        (lambda: FeatureThreat([Scale(0.1)], Budget(), 1.5), "epsilon is 1.5"),
        (lambda: FeatureThreat([Swap()], Budget(max_instances=1)), "swap does nothing below 2"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_routers_own_features_may_be_named_on_purpose():
    assert columns_of(["num_in_flight", "num_waiting"], allow_router_features=True).tolist() == [5, 0]


def test_unknown_features_in_a_config_are_named():
    with pytest.raises(
        ValueError, match=r"adversary.perturbations\[0\]: instances have no feature 'num_runing'"
    ):
        threat_of("feature_scale_5", "adversary.perturbations.0.features=[num_runing]")
