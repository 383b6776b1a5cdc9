"""llm-d's choice among predictions, by hand; and that its trees learn which instances are fast."""

import numpy as np
import pytest

from agents.bandits.latency_samples import LatencySamples
from agents.bandits.predicted_latency import PredictedLatency
from envs import observation as columns
from envs.observation import ENCODED_NAMES, encode

from .two_speed_fleet import Fleet, look, mean_ttft_s


class Foretold(PredictedLatency):
    """Its predictions are given."""

    def __init__(self, ttft_s, **settings):
        super().__init__(**settings)
        self._models = [None]
        self.ttft_s = np.array(ttft_s, np.float64)

    def predict(self, rows):
        return self.ttft_s


def observed(**features):
    instances = np.zeros((len(next(iter(features.values()))), len(columns.INSTANCE_FEATURES)), np.float32)
    for name, values in features.items():
        instances[:, getattr(columns, name.upper())] = values
    request = np.zeros(len(columns.REQUEST_FEATURES), np.float32)
    return {"instances": instances, "request": request, "mask": np.ones(len(instances), np.int8)}


def chances(policy, **features):
    policy.reset(np.random.default_rng(0))
    return policy.act(observed(**features)).propensities.tolist()


def test_without_slo_the_fastest_weigh_most():
    # Lacking [1, 2, 3] s, scaled [0, 0.5, 1]: weights 100 * (1 - ...) + 1
    expected = [101 / 153, 51 / 153, 1 / 153]
    assert chances(Foretold([1, 2, 3]), num_in_flight=[1, 1, 1]) == pytest.approx(expected)
    assert chances(Foretold([1, 2, 3]), num_in_flight=[0, 1, 0]) == pytest.approx([101 / 102, 0, 1 / 102])
    assert chances(Foretold([2, 2]), num_in_flight=[1, 1]) == [0.5, 0.5]


def test_within_the_slo_the_least_headroom_weighs_most():
    # Headroom [1.5, 0.5, -0.5] s
    policy = Foretold([1, 2, 3], slo_ttft_s=2.5)
    expected = [0.99 * 1 / 102, 0.99 * 101 / 102, 0.01]
    assert chances(policy, num_in_flight=[1, 1, 1]) == pytest.approx(expected)
    policy = Foretold([1, 2, 3], slo_ttft_s=2.5, explore_late=0.0)
    assert chances(policy, num_in_flight=[1, 1, 1])[2] == 0


@pytest.mark.parametrize(
    ("slowest_s", "match", "stays"), [(5.9, 0.99, True), (6.1, 0.99, False), (5.9, 0.8, True)]
)
def test_prefix_affinity_holds_up_to_a_delay(slowest_s, match, stays):
    found = chances(Foretold([slowest_s, 1, 1]), num_in_flight=[1, 1, 1], frac_prefix_hit=[match, 0.7, 0])
    assert (found == [1, 0, 0]) is stays
    found = chances(
        Foretold([slowest_s, 1, 1], max_ttft_penalty_s=0.0),
        num_in_flight=[1, 1, 1],
        frac_prefix_hit=[match, 0, 0],
    )
    assert found == [1, 0, 0]


def test_strict_affinity_comes_before_the_slo_and_loose_after():
    settings = {"slo_ttft_s": 2.0, "explore_late": 0.0}
    late_but_held = {"num_in_flight": [1, 1, 1], "frac_prefix_hit": [1, 0, 0]}
    assert chances(Foretold([3, 1, 1.5], **settings), **late_but_held) == [1, 0, 0]
    late_but_held["frac_prefix_hit"] = [0.9, 0, 0]
    assert chances(Foretold([3, 1, 1.5], **settings), **late_but_held)[0] == 0


def test_before_there_is_a_model():
    policy = PredictedLatency()
    # Means of free cache, missing to the longest queue, and match: (0.5 + 1 + 0) / 3, (1 + 0 + 0.5) / 3
    features = {"frac_kv_cache_usage": [0.5, 0], "num_waiting": [0, 4], "frac_prefix_hit": [0, 0.5]}
    assert chances(policy, **features) == [0.5, 0.5]
    assert chances(policy, **{**features, "frac_prefix_hit": [0, 0.8]}) == [0, 1]
    assert policy.counters()["fallback_cold"] == 1


def test_trees_learn_what_they_are_shown():
    """Queue and prompt, that is; not the GPU, which makes half of the difference here."""
    policy = PredictedLatency(min_samples=600, retrain_every_s=1e-3, quantile=0.5)
    policy.reset(np.random.default_rng(0))
    Fleet(seed=1, delay=0).run(policy, 1200)
    assert policy.counters()["training_rounds"] >= 1
    rng, right = np.random.default_rng(2), 0
    for _ in range(200):
        observation = look(rng)
        predicted, ttft_s = policy.predict(encode(*observation.values())), mean_ttft_s(observation)
        right += ttft_s[predicted.argmin()] < np.median(ttft_s)
    assert right > 140  # by chance 100


def test_a_quantile_is_exceeded_as_often_as_it_says():
    policy = PredictedLatency(min_samples=1500, samples_per_stratum=1500, quantile=0.9)
    policy.reset(np.random.default_rng(0))
    rng = np.random.default_rng(3)
    row = np.zeros(len(ENCODED_NAMES), np.float32)
    for ttft_s in rng.exponential(1.0, 1500):
        policy.samples.add(row + np.float32(rng.random() * 1e-3), float(ttft_s))
    policy.observe([])
    assert policy.predict(row[None])[0] == pytest.approx(-np.log(0.1), rel=0.25)


def test_strata_keep_their_own_latest():
    samples = LatencySamples(capacity=2)
    waiting, usage = ENCODED_NAMES.index("num_waiting"), ENCODED_NAMES.index("frac_kv_cache_usage")

    def add(num_waiting, ttft_s, frac_usage=0.0):
        row = np.zeros(len(ENCODED_NAMES), np.float32)
        row[waiting], row[usage] = np.log1p(num_waiting), frac_usage
        samples.add(row, ttft_s)

    for ttft_s in (1.0, 2.0, 3.0):
        add(0, ttft_s)
    add(5, 4.0)
    add(6, 5.0)
    add(3, 6.0)  # of the stratum of 5
    add(0, 7.0, frac_usage=1.0)
    assert samples.arrays()[1].tolist() == [2.0, 3.0, 7.0, 4.0, 6.0, 5.0]
    again = LatencySamples(capacity=2)
    again.load_state(samples.state())
    assert again.arrays()[1].tolist() == samples.arrays()[1].tolist()
