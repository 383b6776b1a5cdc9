"""Each rule chooses as the router that it is taken from, on choices that were recorded of the real one.

make golden      # records anew, and compares
"""

import json

import pytest

from tests.agents.heuristics.golden.replay import MAY_DIFFER, RULES
from tests.agents.heuristics.golden.run import RECORDED


@pytest.mark.parametrize("name", RULES)
def test_our_rule_would_have_chosen_likewise(name):
    choices = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["choices"]
    found = RULES[name](name, choices)
    assert len(found.differ) == MAY_DIFFER.get(name, 0), found
    assert found.num_choices >= 10


def test_nothing_recorded_is_left_unread():
    assert {path.stem for path in RECORDED.glob("*.json")} == set(RULES)
