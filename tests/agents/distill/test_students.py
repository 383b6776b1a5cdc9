"""Students recover rules of the kind that they learn, and imitate others as well as so few nodes can."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from agents.distill.basis import EXPECTED_TTFT, FADED_TTFT, FRAC_DECODING, excess
from agents.distill.choice_model import ChoiceModel
from agents.distill.evaluation import compiled
from agents.distill.expression import Branch, Feature, Number, leaves, num_nodes, sees_instances
from agents.distill.formula import FormulaStudent
from agents.distill.lessons import Lessons
from agents.distill.texts.formula import formula_text
from agents.distill.tree import TreeStudent
from envs.observation import (
    INSTANCE_FEATURES,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_PROMPT_TOKENS,
    NUM_UNCACHED_TOKENS,
    NUM_WAITING,
    REQUEST_FEATURES,
    TURN,
)
from envs.observation import PREFILL_TOKENS_PER_S as SPEED
from tests.agents.distill.rules import OWN, lessons_of, weighed
from tests.agents.heuristics.test_conformance import observations

BACKLOG = Feature("num_in_flight_uncached_tokens") / Feature("prefill_tokens_per_s")
TERMS = (BACKLOG, OWN, Feature("num_running"))
SLOWED = (FRAC_DECODING, Feature("frac_kv_cache_usage"))


def taught(rule, num=1500, noise=0.0, seed=0):
    """Lessons by a teacher who scores by a rule, or chooses by its noisy version."""
    rng = np.random.default_rng(seed)
    looks = []
    for _ in range(num):
        look = observations(rng, num_instances=5)
        rows = look["instances"]
        rows[:, NUM_IN_FLIGHT_UNCACHED_TOKENS] = rng.integers(0, 20_000, 5)
        rows[:, NUM_UNCACHED_TOKENS] = rng.integers(0, 8_000, 5)
        rows[:, SPEED] = rng.choice([8_000, 20_000], 5)
        look["request"][NUM_PROMPT_TOKENS] = rng.integers(0, 8_000)
        looks.append(look)
    told = lessons_of(looks, lambda rows, request: rows[:, 0])
    scores = -compiled(rule)(told) + noise * rng.gumbel(size=len(told.scores))
    return type(told)(told.instances, scores, told.requests, told.num_instances)


def agreement(rule, lessons):
    """Share of decisions in which the rule's best is the teacher's."""
    costs = compiled(rule)(lessons)
    share = (costs == lessons.fleet("least", costs)) * (lessons.choice > 0)
    return (np.add.reduceat(share, lessons.starts) > 0).mean()


def test_slope_of_the_loss_is_that_of_finite_differences():
    lessons = taught(BACKLOG + OWN, num=40, noise=0.3)
    model = ChoiceModel(lessons, TERMS, SLOWED, ridge=1e-3)
    weights = np.array([0.4, -0.2, 1.0, 0.7, 0.3])
    for missed in (model.surprise, model.regret):
        given = model.terms, model.slowed, missed
        slope = approx_fprime(weights, lambda at, given=given: model.objective(at, *given)[0], 1e-6)
        np.testing.assert_allclose(model.objective(weights, *given)[1], slope, rtol=1e-4, atol=1e-3)


def test_what_slows_down_is_found_again():
    """Where decodes fill half of the KV cache, all costs are twice what they are."""
    cost = (BACKLOG + weighed(2.0, OWN)) * (Number(1.0) + weighed(2.0, FRAC_DECODING, ()))
    lessons = taught(cost, num=4000, noise=0.5)
    lessons.__dict__["stakes"] = np.ones(len(lessons))
    found = ChoiceModel(lessons, TERMS, SLOWED, ridge=0.0).fit(range(3), range(2))
    assert found.weights[1] / found.weights[0] == pytest.approx(2.0, rel=0.1)
    np.testing.assert_allclose(found.slowdowns, [2.0, 0.0], atol=0.3)


def test_by_regret_less_is_lost():
    """A teacher whom no formula of the backlog alone can follow: dear mistakes are avoided first."""
    lessons = taught(BACKLOG * (Number(1.0) + weighed(0.2, Feature("num_running"), ())), num=1000)
    model = ChoiceModel(lessons, [BACKLOG, OWN], (), ridge=0.0)

    def lost(fit):
        return model.regret(fit.weights @ np.stack([compiled(term)(lessons) for term in (BACKLOG, OWN)]))[0]

    assert lost(model.fit([0, 1], by_regret=True)) < lost(model.fit([0, 1]))


def test_weights_of_a_random_teacher_are_found():
    """Gumbel noise makes a conditional logit of a cost; all is at stake alike: the weights come back."""
    cost = BACKLOG + weighed(2.0, OWN) + weighed(0.004, Feature("num_running"))
    lessons = taught(cost, num=4000, noise=0.5)
    lessons.__dict__["stakes"] = np.ones(len(lessons))
    found = ChoiceModel(lessons, TERMS, (), ridge=0.0).fit(range(3))
    np.testing.assert_allclose(found.weights, [2.0, 4.0, 0.008], rtol=0.1)


def test_a_formula_is_found_again():
    lessons = taught(BACKLOG + weighed(2.0, OWN) + weighed(0.5, Feature("frac_kv_cache_usage")))
    rules = FormulaStudent(max_nodes=11, max_depth=0, num_rules=1, beam=2).fit(lessons)
    assert len(rules) == 1
    assert num_nodes(rules[0]) == 11
    assert (
        agreement(
            rules[0],
            taught(BACKLOG + weighed(2.0, OWN) + weighed(0.5, Feature("frac_kv_cache_usage")), seed=1),
        )
        > 0.98
    )
    text = formula_text(rules[0])
    assert "(num_in_flight_uncached_tokens + " in text
    assert "num_uncached_tokens) / prefill_tokens_per_s" in text
    assert " s · frac_kv_cache_usage" in text


def test_a_branch_is_found_where_the_context_matters():
    """Of short prompts only the backlog counts, of long ones only the instance's own speed."""
    teacher = Branch(Feature("num_prompt_tokens"), 3000.0, BACKLOG, OWN)
    student = FormulaStudent(max_nodes=16, num_rules=1, num_finalists=3, beam=2, num_tried=3)
    best, plain = student.fit(taught(teacher))
    assert isinstance(best, Branch)
    assert best.tested == Feature("num_prompt_tokens")
    assert best.at_most == pytest.approx(3000, rel=0.15)
    unseen = taught(teacher, seed=1)
    assert agreement(best, unseen) > 0.9
    assert agreement(plain, unseen) < 0.8


def test_a_tree_is_found_again():
    teacher = Branch(
        excess(EXPECTED_TTFT),
        0.0,
        Number(0.0),
        Branch(Feature("num_running"), 100.0, Number(1.0), Number(2.0)),
    )
    rule = TreeStudent(max_tested=2).fit(taught(teacher))[0]
    assert num_nodes(rule) <= 30
    assert agreement(rule, taught(teacher, seed=1)) > 0.99


def test_a_tree_follows_the_least_of_a_time():
    """A rule that no tree of an instance's own features can follow is one branch on how far it is above."""
    rule = TreeStudent(max_tested=1).fit(taught(FADED_TTFT, num=600))[0]
    assert agreement(rule, taught(FADED_TTFT, seed=1)) > 0.99


def test_trees_look_at_instances_where_their_number_tells_more():
    """Of two instances each is chosen more often than of eight: what says which it is, says so."""
    rng = np.random.default_rng(0)
    num_instances = np.tile([2, 8], 150)
    instances = np.zeros((num_instances.sum(), len(INSTANCE_FEATURES)))
    instances[:, NUM_WAITING] = rng.integers(0, 5, len(instances))
    requests = np.zeros((len(num_instances), len(REQUEST_FEATURES)))
    requests[:, TURN] = num_instances
    scores = rng.random(len(instances)) - 0.05 * instances[:, NUM_WAITING]
    rules = TreeStudent(max_nodes=5).fit(Lessons(instances, scores, requests, num_instances))
    assert rules
    assert all(sees_instances(rule) for rule in rules)


@pytest.mark.parametrize("student", [TreeStudent(max_nodes=12), FormulaStudent(max_nodes=12)])
def test_rules_are_no_longer_than_allowed_best_first_and_the_same_again(student):
    lessons = taught(BACKLOG + weighed(2.0, OWN) + weighed(0.003, Feature("num_waiting")), num=500)
    rules = student.fit(lessons)
    assert all(3 <= num_nodes(rule) <= 12 for rule in rules)
    lost = [lessons.mean_regret(compiled(rule)(lessons)) for rule in rules]
    assert lost == sorted(lost)
    assert student.fit(lessons) == rules


def test_cost_without_time_has_no_unit():
    lessons = taught(weighed(0.3, Feature("num_waiting"), ()), num=600)
    rule = FormulaStudent(max_nodes=3, max_depth=0).fit(lessons)[0]
    assert leaves(rule)[0].unit == ()
    assert " 1/requests · num_waiting" in formula_text(rule)


@pytest.mark.parametrize(
    ("student", "settings", "message"),
    [
        (TreeStudent, {"max_nodes": 2}, "max_nodes is 2: a tree needs 3"),
        (FormulaStudent, {"max_nodes": 2}, "max_nodes is 2: a formula needs 3"),
        (FormulaStudent, {"ridge": -1.0}, "ridge is -1.0"),
        (TreeStudent, {"max_depth": 0}, "max_depth is 0"),
        (FormulaStudent, {"beam": 0}, "beam is 0"),
    ],
)
def test_settings_that_allow_no_rule_are_named(student, settings, message):
    with pytest.raises(ValueError, match=message):
        student(**settings).fit(taught(BACKLOG, num=300))
