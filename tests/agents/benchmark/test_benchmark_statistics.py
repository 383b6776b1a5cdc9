"""The benchmark's statistics against numbers computed by hand, and against scipy."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agents.benchmark import aggregate
from agents.benchmark.standings import FIGURES, SHOWN, SHOWN_ALSO, best_rule, standings
from agents.comparison import holm, p_value

KINDS = {"good": "rule", "bad": "rule", "mine": "learned", "clairvoyant": "bound"}
STREAM = np.array([1.0, 2.0, 4.0, 8.0, 3.0, 5.0, 1.5, 2.5, 6.0, 7.0])
NOISE = np.array([1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.03, 0.97, 1.0])


def results(**factors):
    """One row per policy and seed: the streams' own figures, times a factor of each policy."""
    rows = []
    for name, factor in factors.items():
        for seed, value in enumerate(STREAM * factor):
            row = dict.fromkeys((*SHOWN, *SHOWN_ALSO), 0.5) | dict.fromkeys(FIGURES, value)
            rows.append({"policy": name, "seed": seed} | row)
    return pd.DataFrame(rows)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, and never less than the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    undecided = holm([float("nan"), 0.01])
    assert np.isnan(undecided[0])
    assert undecided[1] == 0.02


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    for p, each in zip(p_values, corrected, strict=True):
        assert p <= each <= min(1.0, len(p_values) * p)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_p_value_is_that_of_the_paired_t_test_of_logarithms():
    values = STREAM * np.array([0.9, 1.1, 0.8, 0.95, 1.0, 0.85, 0.9, 1.05, 0.7, 0.9])
    assert p_value(values, STREAM) == pytest.approx(stats.ttest_rel(np.log(values), np.log(STREAM)).pvalue)
    assert p_value(STREAM, STREAM) == 1.0
    assert p_value(2 * STREAM, STREAM) < 1e-9
    assert np.isnan(p_value([1.0], [2.0]))
    assert np.isnan(p_value([1.0, np.nan], [2.0, 1.0]))


def test_interquartile_mean_leaves_out_a_quarter_at_either_end():
    scores = [np.array([1.0, 2.0, 3.0, 100.0]), np.array([0.0, 4.0, 5.0, 6.0])]
    estimate = aggregate.interquartile_mean(scores)  # 0, 1 | 2, 3, 4, 5 | 6, 100
    assert estimate.value == 3.5
    assert estimate.low < 3.5 < estimate.high
    assert estimate == aggregate.interquartile_mean(scores)


def test_strata_are_drawn_by_themselves():
    """Every resample holds each scenario as often: where scenarios differ alone, nothing varies."""
    scores = [np.full(5, 1.0), np.full(5, 2.0), np.full(5, 9.0)]
    mean = aggregate.interquartile_mean(scores)
    assert mean.low == mean.value == mean.high


def test_probability_of_improvement_counts_scenarios_alike_and_ties_half():
    scores = [np.array([0.5, 2.0]), np.array([0.5, 0.5, 1.0, 2.0])]
    assert aggregate.probability_of_improvement(scores).value == pytest.approx((0.5 + 2.5 / 4) / 2)


def test_performance_profile_is_a_distribution_function():
    scores = [np.array([0.5, 1.5]), np.array([1.0, 1.0, 1.0, 3.0])]
    profile = aggregate.performance_profile(scores, np.array([0.1, 0.5, 1.0, 2.0, 3.0]))
    assert profile.tolist() == [0.0, 0.25, (0.5 + 0.75) / 2, (1.0 + 0.75) / 2, 1.0]


def test_verdict_counts_intervals_clear_of_zero():
    rows = {
        "a@80": {"against_best_rule": [-0.2, -0.3, -0.1], "gap_closed": [0.8, 0.7, 0.9], "p_of_rules": 0.01},
        "b@80": {
            "against_best_rule": [-0.1, -0.3, 0.1],
            "gap_closed": [0.2, 0.1, 0.3],
            "gap_closed_there": [0.1, None, None],
        },
        "c@80": {"against_best_rule": [0.04, 0.01, 0.1], "gap_closed": [0.4, 0.1, 0.3]},
        "d@80": {},
    }
    assert aggregate.verdict(rows) == {
        "num_scenarios": 4,
        "num_better": 1,
        "num_worse": 1,
        "num_ahead": 1,
        "worst": ["c@80", 0.04],
        "median_gap_closed": 0.4,
        "median_gap_closed_there": 0.1,
    }
    assert aggregate.verdict({"d@80": {}})["worst"] is None
    nobody_served = aggregate.verdict(rows | {"e@80": {"against_best_rule": [None, None, None]}})
    assert (nobody_served["num_worse"], nobody_served["worst"]) == (2, ["e@80", None])


@pytest.mark.filterwarnings("error")
def test_infinite_costs_have_no_interval_and_no_warning():
    estimate = aggregate.interquartile_mean([np.array([1.0, 2.0, 3.0, np.inf])])
    assert estimate.value == 2.5
    assert list(estimate.plain().values())[2] is None


def test_standings_of_policies_that_differ_by_known_factors():
    table = results(good=1.0, bad=1.5, mine=0.8 * NOISE, clairvoyant=0.5)
    told = standings(table, KINDS)
    assert told["seeds"] == list(range(10))
    for figure in FIGURES:
        standing = told[figure]
        assert list(standing["policies"]) == ["clairvoyant", "mine", "good", "bad"]
        assert (standing["best_rule"], standing["winner"]) == ("good", "mine")
        assert standing["winner_is_certain"]
        mine = standing["policies"]["mine"]
        value, low, high = mine["against_best_rule"]
        assert value == pytest.approx(np.mean(STREAM * 0.8 * NOISE) / STREAM.mean() - 1)
        assert low < value < high < -0.15
        if figure == "ttft_mean_s":
            assert mine["gap_closed"][0] == pytest.approx(0.4, abs=0.02)
            assert standing["policies"]["bad"]["gap_closed"][0] == pytest.approx(-1.0)
        else:  # the bound was searched for the least mean
            assert "gap_closed" not in mine
        assert standing["policies"]["bad"]["p_of_winner"] < 1e-6
        assert "p_of_winner" not in mine
        against = [p_value(STREAM, STREAM * 0.8 * NOISE), p_value(1.5 * STREAM, STREAM * 0.8 * NOISE)]
        assert mine["p_of_rules"] == max(holm(against))
        assert "p_of_rules" not in standing["policies"]["bad"]
        assert "against_best_rule" not in standing["policies"]["good"]
    json.dumps(told, allow_nan=False)


def test_a_plan_that_somebody_beats_is_no_bound():
    standing = standings(results(good=1.0, bad=1.5, mine=0.8, clairvoyant=0.9), KINDS)["ttft_mean_s"]
    assert standing["beaten_by"] == ["mine"]
    assert all("gap_closed" not in row for row in standing["policies"].values())
    assert standings(results(good=1.0, mine=0.9), KINDS)["ttft_mean_s"]["beaten_by"] == []


def test_who_served_nobody_on_the_hardest_stream_did_not_beat_the_bound():
    table = results(good=1.0, mine=0.8, clairvoyant=0.75)
    hardest = int(np.argmax(STREAM))
    table.loc[(table.policy == "mine") & (table.seed == hardest), list(FIGURES)] = np.nan
    mine, bound = (table[table.policy == name].ttft_mean_s for name in ("mine", "clairvoyant"))
    assert mine.mean() < bound.mean()  # of the others
    standing = standings(table, KINDS)["ttft_mean_s"]
    assert standing["beaten_by"] == []
    assert standing["policies"]["good"]["gap_closed"][0] == 0.0


def test_the_bound_may_be_on_some_of_the_streams():
    table = results(good=1.0, mine=0.8, clairvoyant=0.5)
    table.loc[(table.policy == "mine") & (table.seed > 2), list(FIGURES)] = np.repeat(
        STREAM[3:, None], 2, axis=1
    )
    few = table[(table.policy != "clairvoyant") | (table.seed <= 2)]
    policies = standings(few, KINDS)["ttft_mean_s"]["policies"]
    assert policies["mine"]["gap_closed"][0] == pytest.approx(0.4)  # where the bound is, it saves 0.2 of 0.5
    assert policies["clairvoyant"]["against_best_rule"][0] == pytest.approx(-0.5)
    saved = 0.2 * STREAM[:3].sum() / STREAM.sum()
    assert policies["mine"]["against_best_rule"][0] == pytest.approx(-saved)


def test_the_gap_is_told_from_the_rule_that_is_best_on_the_bounds_streams_too():
    table = results(good=1.0, bad=1.5, mine=0.8, clairvoyant=0.5)
    table.loc[(table.policy == "bad") & (table.seed <= 2), list(FIGURES)] = 0.9 * np.repeat(
        STREAM[:3, None], 2, axis=1
    )
    standing = standings(table[(table.policy != "clairvoyant") | (table.seed <= 2)], KINDS)["ttft_mean_s"]
    mine = standing["policies"]["mine"]
    assert standing["best_rule"] == "good"
    assert mine["gap_closed"][0] == pytest.approx(0.2 / 0.5)
    assert mine["gap_closed_there"][0] == pytest.approx(0.1 / 0.4)


def test_a_lead_by_chance_is_no_certain_win():
    swings = np.array([0.5, 1.4, 0.6, 1.3, 0.9, 1.2, 0.7, 1.5, 0.8, 1.0])
    told = standings(results(good=1.0, mine=0.9 * swings), KINDS)["ttft_mean_s"]
    assert told["winner"] == "mine"
    assert not told["winner_is_certain"]


def test_the_least_mean_is_no_certain_win_where_the_other_is_ahead_on_the_streams():
    """One slow stream decides between the means, and the test sees the other ahead on the nine others."""
    one_slow = np.ones(10)
    one_slow[0] = 100.0
    table = results(good=one_slow / STREAM, mine=0.0)
    values = one_slow + np.array([2.0, *[-0.1] * 8, -0.11])  # more in all
    table.loc[table["policy"] == "mine", list(FIGURES)] = np.repeat(values[:, None], 2, axis=1)
    told = standings(table, KINDS)["ttft_mean_s"]
    assert told["winner"] == "good"
    assert p_value(values, one_slow) < 0.01
    assert told["policies"]["mine"]["p_of_winner"] == 1.0
    assert not told["winner_is_certain"]


def test_who_served_nobody_comes_last_and_without_rules_there_is_no_best():
    table = results(good=1.0, mine=0.8)
    table.loc[table["policy"] == "good", list(FIGURES)] = np.nan
    told = standings(table, KINDS)["ttft_mean_s"]
    assert list(told["policies"]) == ["mine", "good"]
    assert told["best_rule"] is None
    assert not told["winner_is_certain"]
    assert best_rule({"mine": pd.Series(STREAM)}, KINDS) is None
    json.dumps(told, allow_nan=False)


def test_one_seed_has_no_intervals():
    told = standings(results(good=1.0, mine=0.8).query("seed == 0"), KINDS)
    mine = told["ttft_mean_s"]["policies"]["mine"]
    assert mine["against_best_rule"] == [pytest.approx(-0.2), None, None]
    json.dumps(told, allow_nan=False)
