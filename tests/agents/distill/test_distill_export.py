"""Bundles of rules decide as the rules do, by NumPy and by ONNX."""

import pytest

from agents.distill.basis import EXPECTED_TTFT, excess
from agents.distill.expression import Branch, Feature, Fleet, Number
from agents.export import bundle, writing
from agents.export.parity import compare, compare_onnx
from agents.export.plan import columns_read
from envs.observation import NUM_RUNNING, NUM_WAITING
from tests.agents.distill.rules import FADING, FORMULA, TREE, distilled, seen

RULES = {
    "formula": FORMULA,
    "tree": TREE,
    "fading": FADING,
    "fleet": Branch(
        Fleet("mean", Feature("num_running")),
        200.0,
        excess(Feature("num_waiting")),
        Branch(Fleet("most", Feature("num_waiting")), 300.0, Feature("num_running"), Feature("num_waiting")),
    ),
    "mixed": Branch(excess(EXPECTED_TTFT), 1.0, Feature("num_waiting"), Feature("num_running")),
    "alike": Branch(Feature("turn"), 2.0, Number(0.0), Feature("num_waiting")),
    "stump": Branch(Feature("num_waiting"), 250.0, Number(0.0), Number(1.0)),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_bundle_decides_as_its_rule(rule, tmp_path):
    policy, looks = distilled(rule), seen(0, 120)
    writing.write(tmp_path / "b", writing.Export("rule", policy, max_instances=8), lambda part: "a card")
    loaded = bundle.load(tmp_path / "b")
    parity = compare(policy, loaded, looks)
    assert parity.holds
    assert parity.worst_score < 1e-12
    assert compare_onnx(loaded, tmp_path / "b" / bundle.MODEL, looks).holds


def test_what_a_rule_reads_can_be_told():
    assert columns_read(distilled(RULES["fleet"])) == {NUM_WAITING, NUM_RUNNING}
