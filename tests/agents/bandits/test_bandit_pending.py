import numpy as np
import pytest

from agents.bandits.pending import PendingDecisions
from agents.policy import Decision
from envs.observation import ENCODED_NAMES

from .two_speed_fleet import outcome

DECISION = Decision(1, np.array([0.0, 1.0]), np.zeros(2))


def test_claims_each_decision_once_in_any_order():
    pending = PendingDecisions(10)
    for number in range(3):
        pending.remember(1, np.full(len(ENCODED_NAMES), number, np.float32))
    for decision_id in (2, 0, 1):
        row = pending.claim(outcome(decision_id, DECISION, 0.5))
        assert row is not None
        assert row[0] == decision_id
    assert len(pending) == 0
    assert pending.claim(outcome(1, DECISION, 0.5)) is None
    assert pending.counters["unknown_feedback"] == 1


def test_copies_the_row():
    pending = PendingDecisions(10)
    row = np.zeros(len(ENCODED_NAMES), np.float32)
    pending.remember(1, row)
    row[:] = 1
    claimed = pending.claim(outcome(0, DECISION, 0.5))
    assert claimed is not None
    assert not claimed.any()


def test_memory_is_bounded():
    pending = PendingDecisions(5)
    for _ in range(12):
        pending.remember(1, np.zeros(len(ENCODED_NAMES), np.float32))
    assert len(pending) == 5
    assert pending.counters["forgotten_decisions"] == 7
    assert pending.claim(outcome(6, DECISION, 0.5)) is None
    assert pending.claim(outcome(7, DECISION, 0.5)) is not None

    with pytest.raises(ValueError, match="max_pending"):
        PendingDecisions(3).load_state(pending.state())


def test_a_forgotten_decision_is_counted_once_even_where_its_feedback_comes_after_a_resumption():
    pending = PendingDecisions(5)
    for _ in range(7):
        pending.remember(1, np.zeros(len(ENCODED_NAMES), np.float32))
    resumed = PendingDecisions(5)
    resumed.load_state(pending.state())
    for counted in (pending, resumed):
        for decision_id in (0, 1):  # forgotten
            assert counted.claim(outcome(decision_id, DECISION, 0.5)) is None
        assert (counted.counters["forgotten_decisions"], counted.counters["unknown_feedback"]) == (2, 0)
        for decision_id in (-1, 7):  # never made
            assert counted.claim(outcome(decision_id, DECISION, 0.5)) is None
        assert (counted.counters["forgotten_decisions"], counted.counters["unknown_feedback"]) == (2, 2)
    pending.reset()
    assert pending.claim(outcome(0, DECISION, 0.5)) is None
    assert pending.counters["unknown_feedback"] == 1


def test_a_state_of_before_late_feedback_was_told_apart_loads():
    state = PendingDecisions(5).state()
    del state["num_old"]
    PendingDecisions(5).load_state(state)
