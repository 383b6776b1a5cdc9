"""The texts of a rule, each in its language, choose as the policy on observations of an emulated fleet."""

import os
import shutil
import subprocess
from contextlib import closing

import numpy as np
import pytest

from agents.build_env import build_env
from agents.distill.expression import Branch, Feature, Fleet
from agents.distill.texts.cel import cel_formula, cel_text
from agents.distill.texts.formula import formula_text
from agents.distill.texts.go import PACKAGE, go_text
from agents.distill.texts.python import python_text
from agents.distill.texts.signature import signature
from agents.export.parity import observe
from tests.agents.distill.rules import FADING, FORMULA, TREE, arguments, by_python, distilled, seen
from tests.agents.test_programs import TINY, configured

RULES = {"formula": FORMULA, "tree": TREE, "fading": FADING}
ON_THE_THRESHOLD = Branch(
    Fleet("mean", Feature("num_in_flight")), 7.0, Feature("num_running"), Feature("num_waiting")
)
"""For six instances of 7: a sum of sixths would be a hair more."""
GO = shutil.which("go")

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What the formula saw while it routed, over four instances."""
    config = configured(
        "train", tmp_path_factory.mktemp("run"), *TINY, "cluster=h100x4", "workload.rate_per_s=100"
    )
    with closing(build_env(config)) as env:
        return observe(env, distilled(FORMULA), 0, 80)


def assert_chosen_alike(rule, look, costs, tolerance=1e-12):
    """Costs by a text are those of the policy, and so is the choice."""
    decision = distilled(rule).act(look)
    valid = look["mask"] == 1
    np.testing.assert_allclose(costs, -decision.scores[valid], rtol=tolerance, atol=tolerance)
    assert decision.propensities[valid][int(np.argmin(costs))] > 0.0


@every_rule
def test_python(rule, recorded):
    chosen = set()
    for look in recorded:
        costs = by_python(rule, look)
        assert_chosen_alike(rule, look, costs)
        chosen.add(int(np.argmin(costs)))
    assert len(chosen) > 1


def nobody():
    """An observation of no instance that may be chosen."""
    return {**seen(0)[3], "mask": np.zeros(4, np.int8)}


@every_rule
def test_python_of_no_instance(rule):
    assert by_python(rule, nobody()) == []


def in_go(values):
    return f"[]float64{{{', '.join(map(repr, values))}}}"


@pytest.mark.skipif(GO is None, reason="no go toolchain on PATH: the Go text is not compiled")
def test_go(recorded, observe, tmp_path):
    """The program holds what it is asked and prints costs by the built-in println, to 7 figures."""
    even = observe(num_in_flight=[7] * 6, num_running=[3, 1, 2, 5, 4, 6], num_waiting=[4, 6, 5, 2, 3, 1])
    asked = [(name, rule, [*recorded[:20], nobody()]) for name, rule in RULES.items()]
    asked.append(("onTheThreshold", ON_THE_THRESHOLD, [even]))
    calls = []
    for name, rule, looks in asked:
        text = go_text(rule)
        assert "import" not in text
        text = text.replace(PACKAGE, "package main").replace("func Costs(", f"func {name}(")
        (tmp_path / f"{name}.go").write_text(text)
        for look in looks:
            of_instances, of_request = arguments(rule, look)
            given = [*map(in_go, of_instances.values()), *map(repr, of_request.values())]
            calls.append(f"for _, each := range {name}({', '.join(given)}) {{ println(each) }}")
    (tmp_path / "main.go").write_text("package main\n\nfunc main() {\n" + "\n".join(calls) + "\n}\n")
    (tmp_path / "go.mod").write_text("module rule\n\ngo 1.21\n")
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOTOOLCHAIN": "local"}
    said = subprocess.run(
        [GO, "run", "."],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    costs = iter(map(float, said.stderr.split()))
    for _, rule, looks in asked:
        for look in looks:
            of_instances = [next(costs) for _ in range(look["mask"].sum())]
            if of_instances:
                assert_chosen_alike(rule, look, of_instances, tolerance=1e-6)


@every_rule
def test_cel(rule, recorded):
    celpy = pytest.importorskip("celpy", reason="no cel-python: the CEL text is not evaluated")
    environment = celpy.Environment()

    def evaluate(text, names):
        program = environment.program(environment.compile(text))
        return [float(program.evaluate(each)) for each in names]

    for look in recorded[:20]:
        of_instances, of_request = arguments(rule, look)
        num_instances = len(next(iter(of_instances.values())))
        names = [
            {name: celpy.celtypes.DoubleType(values[row]) for name, values in of_instances.items()}
            | {name: celpy.celtypes.DoubleType(value) for name, value in of_request.items()}
            for row in range(num_instances)
        ]
        for each in signature(rule).named:
            if isinstance(each, Fleet):
                values = evaluate(cel_formula(each.of), names)
                value = {"least": min(values), "most": max(values), "mean": sum(values) / len(values)}
                for row in names:
                    row[each.name] = celpy.celtypes.DoubleType(value[each.statistic])
        assert_chosen_alike(rule, look, evaluate(cel_text(rule), names))


def test_people_read_units():
    assert formula_text(FORMULA) == (
        "cost [s] =\n"
        "    if num_prompt_tokens <= 512 tokens:\n"
        "        expected_ttft_s + 0.3 s/requests · num_running\n"
        "    else:\n"
        "        num_uncached_tokens / prefill_tokens_per_s · frac_kv_cache_usage"
        " - 0.25 s · frac_prefix_hit\n"
        "where\n"
        "    expected_ttft_s = (num_in_flight_uncached_tokens + num_uncached_tokens) / prefill_tokens_per_s\n"
        "What divides counts as at least 1, in its unit.\n"
    )
    assert "What divides" not in formula_text(ON_THE_THRESHOLD)  # nothing does
    assert "if mean_num_waiting <= 2 requests:" in formula_text(TREE)
    assert (
        "expected_uncached_tokens = num_prompt_tokens - (num_prompt_tokens - num_uncached_tokens)"
        " / (1 + prefix_age_s · recent_tokens_per_s / num_kv_cache_tokens)\n"
    ) in formula_text(FADING)
    assert "excess_expected_ttft_s = expected_ttft_s - least_expected_ttft_s" in formula_text(TREE)


def test_texts_say_what_they_need():
    for text in (python_text(FORMULA), go_text(FORMULA), cel_text(FORMULA)):
        assert "tokens/s; speed of one 2048-token prompt alone" in text
