"""The comparison of two worlds, on figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agents.likeness import latencies, paired, prefix_hits, ranking


def ledger(ttft_s: list[float], **columns: object) -> pd.DataFrame:
    num = len(ttft_s)
    return pd.DataFrame(
        {
            "arrived_at_s": np.arange(num, dtype=float),
            "num_prompt_tokens": 100,
            "tenant": 0,
            "ttft_s": ttft_s,
            "tpot_s": 0.0,
            "e2e_s": ttft_s,
            "num_cached_tokens": 0,
            "failure": "",
            "is_retried": False,
        }
        | columns
    )


def test_latencies_are_compared_in_mean_quantiles_and_distance():
    real, modelled = ledger([1.0, 2.0, 3.0, 4.0]), ledger([1.0, 2.0, 3.0, 6.0])
    figures = latencies([paired(real, modelled, 0.0)])
    assert "tpot_s" not in figures  # every answer had one token
    ttft = figures["ttft_s"]
    assert (ttft["mean"]["real"], ttft["mean"]["modelled"]) == (2.5, 3.0)
    assert ttft["mean"]["relative"] == pytest.approx(0.2)
    assert ttft["mean"]["low"] <= 0.2 <= ttft["mean"]["high"]
    assert ttft["p50"] == {"real": 2.5, "modelled": 2.5, "relative": 0.0}
    assert ttft["ks"] == 0.25  # between 4 and 6, four of four against three of four


def test_only_what_both_served_after_the_warm_up_counts():
    real = ledger([1.0, 2.0, 3.0], failure=["", "", "http 500"])
    worlds = paired(real, ledger([1.0, 2.0, 3.0]), 0.5)
    assert worlds.real["ttft_s"].tolist() == worlds.modelled["ttft_s"].tolist() == [2.0]
    with pytest.raises(ValueError, match=r"no request that arrived after warmup_s = 9"):
        paired(real, real, 9.0)


def test_other_requests_are_refused():
    with pytest.raises(ValueError, match="did not get the same requests"):
        paired(ledger([1.0]), ledger([1.0, 2.0]), 0.0)
    with pytest.raises(ValueError, match="did not get the same requests"):
        paired(ledger([1.0]), ledger([1.0], num_prompt_tokens=7), 0.0)


def test_prefix_hits():
    worlds = paired(
        ledger([1.0, 1.0], num_cached_tokens=[10, 30]), ledger([1.0, 1.0], num_cached_tokens=[10, 26]), 0.0
    )
    assert prefix_hits([worlds]) == {
        "real": 40,
        "modelled": 36,
        "relative": pytest.approx(-0.1),
        "num_different": 1,
        "num_requests": 2,
    }


def test_ranking_counts_only_pairs_whose_intervals_are_apart():
    means = {
        "good": {"real": [1.0, 1.1, 1.2], "modelled": [2.0, 2.1, 2.2]},
        "like": {"real": [1.15, 1.2, 1.05], "modelled": [1.0, 1.1, 1.2]},  # not told apart from good, live
        "bad": {"real": [3.0, 3.1, 3.2], "modelled": [1.5, 1.6, 1.7]},
    }
    found = ranking(means)
    assert list(found["real"])[-1] == "bad"
    assert (found["num_pairs"], found["num_decided"]) == (3, 2)
    assert found["disagreements"] == [["good", "bad"]]
    assert found["kendall"] == pytest.approx(-1 / 3)  # one of three pairs in the same order


def test_with_one_seed_the_means_are_taken_by_the_letter():
    found = ranking(
        {"a": {"real": [1.0], "modelled": [1.0]}, "b": {"real": [2.0], "modelled": [3.0]}},
    )
    assert (found["num_decided"], found["disagreements"], found["kendall"]) == (1, [], 1.0)
