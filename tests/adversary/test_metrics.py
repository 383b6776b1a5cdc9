"""Churn and hot spots, by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from adversary.metrics import robustness_figures


def ledger(instances, every_s=1.0):
    num = len(instances)
    return pd.DataFrame(
        {
            "decision_id": range(num),
            "instance": instances,
            "arrived_at_s": [every_s * place for place in range(num)],
            "num_prompt_tokens": 10,
            "num_output_tokens": 10,
            "num_cached_tokens": 0,
            "num_preemptions": 0,
            "ttft_s": [0.01 * place for place in range(num)],
            "tpot_s": 0.01,
            "e2e_s": 1.0,
            "slo_met": True,
            "failure": "",
            "num_retries": 0,
            "is_retried": False,
        }
    )


def test_churn_and_hot_spot_by_hand():
    # windows of two: (0, 1), (0, 0), (1, 1): shares move by a half, then by all
    found = robustness_figures(ledger([0, 1, 0, 0, 1, 1]), num_instances=2, window_s=2.0)
    assert found["churn"] == pytest.approx(0.75)
    assert found["hot_spot"] == 1.0
    assert found["ttft_p95_s"] == pytest.approx(0.0475)


def test_one_instance_has_all():
    found = robustness_figures(ledger([2] * 8), num_instances=4, window_s=2.0)
    assert (found["churn"], found["hot_spot"]) == (0.0, 4.0)


def test_windows_without_a_decision_change_nothing():
    found = robustness_figures(ledger([0, 1], every_s=10.0), num_instances=2, window_s=2.0)
    assert found["churn"] == 1.0
