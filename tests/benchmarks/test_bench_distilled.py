"""What the benchmark of distilled rules times is what the README shows."""

from pathlib import Path

import pytest

from agents.distill.texts.formula import formula_text
from tests.benchmarks.bench_distilled import RULES

REFERENCE = Path(__file__).parents[2] / "runs" / "reference" / "distill" / "mooncake.md"


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_the_one_distilled_last(name):
    """Where that was distilled anew, write the rule in the benchmark anew, too."""
    assert f"```\n{formula_text(RULES[name])}```" in REFERENCE.read_text(encoding="utf-8")
