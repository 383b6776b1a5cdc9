"""The emulator agrees with what vLLM did in the golden scenarios, and a broken emulator does not."""

import pytest

from .comparison import difference, report
from .emulation import emulate
from .golden import FOLDER, MODES, NUM_SCENARIOS, golden


@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_the_golden_rows(mode):
    kinds, num = set(), 0
    for scenario, vllms in golden(mode):
        played, ours = emulate(scenario)
        message = difference(ours, vllms)
        assert message is None, report(scenario, message)
        assert played == scenario  # every request came at the step it came at in vLLM
        num += 1
        for _, served, preempted, *_ in vllms["rows"]:
            kinds.update(kind for _, kind, *_ in served)
            kinds.update({"preempted"} if preempted else ())
    assert num == NUM_SCENARIOS
    assert kinds == {"new", "running", "resumed", "preempted"}


def test_golden_rows_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000
