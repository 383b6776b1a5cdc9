"""A rule costs the same by NumPy, of one decision or of many, as by the Python text written of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.distill.basis import FADED_TTFT
from agents.distill.evaluation import compiled
from agents.distill.expression import INSTANCE_COLUMNS, Branch, Feature, Number
from agents.distill.policy import Distilled
from tests.agents.distill.rules import FADING, FORMULA, TREE, by_python, distilled, lessons_of, rules, seen
from tests.agents.heuristics.test_conformance import observations


def test_a_formula_by_hand(observe):
    look = observe(
        num_in_flight_uncached_tokens=[1000, 0, 500],
        num_uncached_tokens=[500, 100, 500],
        prefill_tokens_per_s=[1000, 200, 0],  # of unknown speed: it counts as 1 token/s
        num_running=[1, 10, 0],
        frac_kv_cache_usage=[0.5, 0.25, 1],
        frac_prefix_hit=[0, 0.5, 1],
        request={"num_prompt_tokens": 512},
    )
    np.testing.assert_allclose(distilled(FORMULA).act(look).scores, [-1.8, -3.5, -1000.0])
    look["request"][0] = 513
    np.testing.assert_allclose(distilled(FORMULA).act(look).scores, [-0.25, 0.0, -499.75])


def test_a_match_fades_by_hand(observe):
    """Of 900 matched tokens half are left after one turnover; then decodes in a quarter of the cache."""
    look = observe(
        num_uncached_tokens=[100, 1000],
        num_in_flight_uncached_tokens=[200, 0],
        prefix_age_s=[20, 3600],
        recent_tokens_per_s=[500, 500],
        num_kv_cache_tokens=[10_000, 10_000],
        num_in_flight_decode_tokens=[2500, 0],
        prefill_tokens_per_s=[1000, 1000],
        request={"num_prompt_tokens": 1000},
    )
    np.testing.assert_allclose(distilled(FADED_TTFT).act(look).scores, [-0.75 * 1.25, -1.0])


def test_a_tree_by_hand(observe):
    look = observe(
        num_in_flight_uncached_tokens=[100, 0, 0],
        num_uncached_tokens=[0, 100, 101],
        prefill_tokens_per_s=[100, 100, 100],
        num_running=[9, 9, 3],
        num_waiting=[2, 2, 2],
        request={"num_prompt_tokens": 600},
    )
    assert distilled(TREE).act(look).scores.tolist() == [0.5, 0.5, 0.4]
    assert distilled(TREE).act(look).propensities.tolist() == [0.5, 0.5, 0.0]
    look["instances"][2, 0] = 3  # their mean is now above 2
    assert distilled(TREE).act(look).scores.tolist() == [0.5, 0.5, 0.0]
    look["mask"][0] = 0
    assert distilled(TREE).act(look).scores.tolist() == [-np.inf, 0.5, 0.0]


@settings(max_examples=60, deadline=None)
@given(rule=rules, seed=st.integers(0, 2**32))
def test_all_ways_to_compute_a_rule_agree(rule, seed):
    looks = seen(seed)
    at_once = compiled(rule)(lessons_of(looks, lambda rows, request: rows[:, 0]))
    one_by_one = [-distilled(rule).act(look).scores[look["mask"] == 1] for look in looks]
    in_python = [by_python(rule, look) for look in looks]
    np.testing.assert_allclose(np.concatenate(one_by_one), at_once, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(in_python), at_once, rtol=1e-9, atol=1e-6)


def manifold(num_tested):
    """A tree that tests so many features, each once."""
    rule = Number(0.0)
    for number, name in enumerate(list(INSTANCE_COLUMNS)[:num_tested]):
        rule = Branch(Feature(name), 2.0 * number, Number(1.0 + number), rule)
    return rule


@pytest.mark.parametrize(
    "rule",
    [FORMULA, FADING, TREE, manifold(5), manifold(16)],  # the last too manifold to be looked up
    ids=["formula", "fading", "tree", "looked up", "computed"],
)
def test_a_decision_is_that_of_the_python_text_to_the_last_bit(rule):
    rng, policy = np.random.default_rng(0), distilled(rule)
    for look in (observations(rng, num_instances=16, coarse=number % 2 == 0) for number in range(200)):
        decision, valid = policy.act(look), look["mask"] == 1
        costs = np.array(by_python(rule, look))
        is_least = costs == costs.min()
        assert (decision.scores[valid] == -costs).all()
        assert (decision.propensities[valid] == is_least / is_least.sum()).all()
        assert decision.propensities[decision.instance] > 0.0


@settings(max_examples=30, deadline=None)
@given(rule=rules, seed=st.integers(0, 2**32), order=st.permutations(range(6)))
def test_costs_move_along_with_the_rows(rule, seed, order):
    look = seen(seed, 6)[-1]
    moved = {**look, "instances": look["instances"][order], "mask": look["mask"][order]}
    here, there = distilled(rule).act(look), distilled(rule).act(moved)
    np.testing.assert_allclose(there.scores, here.scores[order], rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("cost", "short"),
    [
        (Number(2.0), -2.0),
        (Feature("num_prompt_tokens"), -512.0),
        (Branch(Feature("turn"), 1.0, Number(3.0), Number(4.0)), -3.0),
    ],
    ids=["number", "request", "tree"],
)
def test_one_side_of_a_branch_may_cost_the_same_everywhere(observe, cost, short):
    rule = Branch(Feature("num_prompt_tokens"), 512.0, cost, Feature("num_running"))
    look = observe(num_running=[1, 4, 2], request={"num_prompt_tokens": 512})
    assert distilled(rule).act(look).scores.tolist() == [short] * 3
    assert distilled(rule).act(look).propensities == pytest.approx([1 / 3] * 3)
    look["request"][0] = 513
    assert distilled(rule).act(look).scores.tolist() == [-1.0, -4.0, -2.0]


def test_a_rule_that_sees_no_instance_is_refused():
    with pytest.raises(ValueError, match="looks at no feature of the instances"):
        Distilled(Feature("num_prompt_tokens") * Number(2.0))
