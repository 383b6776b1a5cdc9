import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agents.comparison import Estimate, mean_over_seeds, relative_difference, share_of_gap_closed
from agents.metrics import figures


def ledger():
    return pd.DataFrame(
        {
            "instance": [0, 0, 1, 1],
            "arrived_at_s": [0.0, 10.0, 20.0, 30.0],
            "num_prompt_tokens": [100, 100, 200, 100],
            "num_cached_tokens": [0, 50, 50, 0],
            "num_preemptions": [0, 1, 0, 0],
            "ttft_s": [9.0, 1.0, 2.0, 3.0],
            "tpot_s": [0.1, 0.1, 0.2, 0.3],
            "e2e_s": [19.0, 2.0, 4.0, 4.0],
            "slo_met": [False, True, True, False],
            "failure": ["", "", "", ""],
            "is_retried": [False, False, False, False],
        }
    )


def test_figures_by_hand_without_the_warmup():
    row = figures(ledger(), num_instances=2, warmup_s=5.0)
    assert row["num_requests"] == 3
    assert row["ttft_mean_s"] == 2.0
    assert row["ttft_p50_s"] == 2.0
    assert row["ttft_p90_s"] == pytest.approx(2.8)
    assert row["tpot_mean_s"] == pytest.approx(0.2)
    assert row["e2e_mean_s"] == pytest.approx(10 / 3)
    assert row["frac_slo_met"] == pytest.approx(2 / 3)
    assert row["frac_prefix_hits"] == pytest.approx(100 / 400)
    assert row["load_imbalance"] == pytest.approx(3 / 5)  # in-flight seconds 2 and 8: mean 5, deviation 3
    # completions at 12, 24, 34: the 10th percentile is at 14.4, the 90th at 32
    assert row["completed_per_s"] == pytest.approx(0.8 * 3 / (32 - 14.4))
    assert row["goodput_per_s"] == pytest.approx(row["completed_per_s"] * 2 / 3)
    assert row["num_preemptions"] == 1


def test_failed_requests_count_as_misses_only():
    table = ledger()
    table.loc[3, ["failure", "ttft_s", "tpot_s", "e2e_s", "slo_met"]] = [
        "lost",
        np.nan,
        np.nan,
        np.nan,
        False,
    ]
    row = figures(table, 2)
    assert row["num_failed"] == 1
    assert row["ttft_mean_s"] == 4.0
    assert row["frac_slo_met"] == 0.5


def test_a_request_that_was_sent_again_counts_once():
    retried = ledger().iloc[[2]].assign(failure="lost", ttft_s=np.nan, tpot_s=np.nan, e2e_s=np.nan)
    retried = retried.assign(is_retried=True, slo_met=False)
    row, expected = figures(pd.concat([retried, ledger()]), 2, 5.0), figures(ledger(), 2, 5.0)
    assert expected.pop("num_retries") == 0
    assert row.pop("num_retries") == 1
    assert row == expected


def test_where_nothing_was_served_latencies_are_not_numbers():
    lost = ledger().assign(failure="lost", ttft_s=np.nan, tpot_s=np.nan, e2e_s=np.nan, slo_met=False)
    row = figures(lost, 2)
    assert (row["num_failed"], row["frac_slo_met"]) == (4, 0.0)
    for name in ("ttft_mean_s", "e2e_p99_s", "load_imbalance", "completed_per_s", "goodput_per_s"):
        assert np.isnan(row[name])


def test_warmup_that_leaves_nothing_is_named():
    with pytest.raises(ValueError, match="warmup_s is 31"):
        figures(ledger(), 2, 31.0)


def test_relative_difference_is_paired():
    reference = np.array([1.0, 2.0, 4.0, 8.0, 16.0])  # seeds differ much more than policies do
    estimate = relative_difference(0.9 * reference, reference)
    assert estimate.value == pytest.approx(-0.1)
    assert estimate.low == pytest.approx(-0.1)
    assert estimate.high == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="one length"):
        relative_difference([1.0], [1.0, 2.0])


def test_interval_is_scipys_and_reproducible():
    values = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    estimate = mean_over_seeds(values)
    assert estimate == mean_over_seeds(values)
    assert estimate.value == 3.8
    interval = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), abs=0.15)
    assert np.isnan(mean_over_seeds([1.0]).low)


def test_share_of_the_gap_closed_by_hand():
    rule, bound = np.array([2.0, 4.0, 6.0]), np.array([1.0, 1.0, 4.0])
    assert share_of_gap_closed([1.5, 3.0, 4.5], rule, bound).value == pytest.approx(0.5)
    assert share_of_gap_closed(rule, rule, bound) == Estimate(0.0, 0.0, 0.0)
    assert share_of_gap_closed(bound, rule, bound) == Estimate(1.0, 1.0, 1.0)
    worse = share_of_gap_closed(rule + 1.0, rule, bound)
    assert worse.value == pytest.approx(-0.5)
    assert worse.low <= worse.value <= worse.high < 0
    assert np.isnan(share_of_gap_closed(bound, rule, rule).value)
    with pytest.raises(ValueError, match="one length"):
        share_of_gap_closed([1.0], rule, bound)
