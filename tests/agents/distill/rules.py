"""Rules, and what they may be computed on."""

import builtins

import numpy as np
from hypothesis import strategies as st

from agents.distill.basis import EXPECTED_TTFT, FADED_TTFT, excess
from agents.distill.expression import (
    INSTANCE_COLUMNS,
    REQUEST_ENTRIES,
    Branch,
    Feature,
    Fleet,
    Number,
)
from agents.distill.lessons import Lessons
from agents.distill.policy import Distilled
from agents.distill.texts.python import python_text
from agents.distill.texts.signature import signature
from agents.distill.unit import NO_UNIT, ratio, unit
from tests.agents.heuristics.test_conformance import observations

SECONDS = unit("s")


def weighed(value, term, of=SECONDS):
    return Number(value, ratio(of, term.unit)) * term


OWN = Feature("num_uncached_tokens") / Feature("prefill_tokens_per_s")
FORMULA = Branch(
    Feature("num_prompt_tokens"),
    512.0,
    EXPECTED_TTFT + weighed(0.3, Feature("num_running")),
    OWN * Feature("frac_kv_cache_usage") - weighed(0.25, Feature("frac_prefix_hit")),
)
FADING = FADED_TTFT + weighed(0.25, Feature("num_waiting"))
"""It divides by a sum."""
TREE = Branch(
    excess(EXPECTED_TTFT),
    0.0,
    Branch(Feature("num_prompt_tokens"), 512.0, Number(-1.0), Number(-0.5)),
    Branch(
        Fleet("mean", Feature("num_waiting")),
        2.0,
        Branch(Feature("num_running"), 3.0, Number(-0.4), Number(-0.3)),
        Number(0.0),
    ),
)

features = st.sampled_from([*INSTANCE_COLUMNS, *REQUEST_ENTRIES]).map(Feature)
of_instances = st.sampled_from(list(INSTANCE_COLUMNS)).map(Feature)
statistics = st.builds(Fleet, st.sampled_from(["least", "mean", "most"]), of_instances)
numbers = st.integers(1, 4000).map(lambda whole: whole / 8)
"""Few digits, so that sums of products are exact however they are ordered."""


@st.composite
def formulas(draw):
    """Sums of weighed features, quotients, excesses and statistics, of no unit."""
    parts = draw(
        st.lists(
            st.one_of(
                features,
                statistics,
                of_instances.map(excess),
                st.tuples(features, features).map(lambda pair: pair[0] / pair[1]),
                st.tuples(features, features).map(lambda pair: pair[0] * pair[1]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    total = weighed(draw(numbers), draw(of_instances), NO_UNIT)
    for part in parts:
        summand = weighed(draw(numbers), part, NO_UNIT)
        total = total + summand if draw(st.booleans()) else total - summand
    return total


tested = st.one_of(features, statistics, of_instances.map(excess))
trees = st.recursive(
    numbers.map(Number),
    lambda rule: st.builds(Branch, tested, numbers, rule, rule),
    max_leaves=8,
).filter(lambda rule: isinstance(rule, Branch) and tests_an_instance(rule))
branched = st.recursive(formulas(), lambda rule: st.builds(Branch, tested, numbers, rule, rule), max_leaves=3)
rules = st.one_of(trees, branched)


def tests_an_instance(rule):
    if not isinstance(rule, Branch):
        return False
    return rule.tested.is_per_instance or tests_an_instance(rule.then) or tests_an_instance(rule.otherwise)


def seen(seed, num=5):
    """Observations of some instances, a few of them masked."""
    rng = np.random.default_rng(seed)
    return [observations(rng, num_instances=1 + number % 6, coarse=number % 2 == 0) for number in range(num)]


def lessons_of(looks, score):
    """What a teacher thinks of observations that scores the rows ``[num_valid, num_features]`` of each."""
    valid = [look["instances"][look["mask"] == 1].astype(np.float64) for look in looks]
    requests = [look["request"].astype(np.float64) for look in looks]
    scores = [score(rows, request) for rows, request in zip(valid, requests, strict=True)]
    return Lessons(
        np.concatenate(valid),
        np.concatenate(scores),
        np.stack(requests),
        np.array([len(rows) for rows in valid]),
    )


def distilled(rule):
    policy = Distilled(rule)
    policy.reset(np.random.default_rng(0))
    return policy


def arguments(rule, look):
    """What the texts of a rule are given: lists of the valid instances' features, then the request's."""
    needed = signature(rule)
    rows, request = look["instances"][look["mask"] == 1], look["request"]
    of_instances = {each.name: rows[:, INSTANCE_COLUMNS[each.name]].tolist() for each in needed.instance}
    return of_instances, {each.name: float(request[REQUEST_ENTRIES[each.name]]) for each in needed.request}


def by_python(rule, look):
    """Costs of the valid instances by the Python text."""
    names = {
        "__builtins__": {name: getattr(builtins, name) for name in ("len", "max", "min", "range", "sum")}
    }
    exec(python_text(rule), names)
    of_instances, of_request = arguments(rule, look)
    return names["costs"](**of_instances, **of_request)
