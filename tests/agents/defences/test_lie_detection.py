import pytest

from agents.defences.lie_detection import LieDetection

from .look import Witness, begun, column, look

QUICK = {"min_requests": 2, "num_decisions": 3, "max_ratio": 4}


def after(defence, choices, **instance_columns):
    """Send requests of 1000 uncached tokens, each promised 0.1 s and 10 ms, to these instances."""
    for choice in choices:
        defence.policy.choice = choice
        defence.act(look(num_uncached_tokens=1000, **instance_columns))
    return defence.distrusted.tolist()


def lied(**options):
    """A defence that has just found instance 1 to lie: it promised 0.11 s and took 5 s."""
    defence = begun(LieDetection(Witness(), **(QUICK | options)))
    after(defence, [0, 0, 1, 1], num_waiting=0)
    after(
        defence, [0], recent_ttft_s=[0.2, 5.0, 0.0], num_waiting=[4, 0, 6], frac_prefix_hits=[0.5, 0.9, 0.3]
    )
    return defence


def test_a_liar_is_shown_as_the_worst_of_those_believed():
    defence = lied()
    assert defence.distrusted.tolist() == [False, True, False]
    assert column(defence.policy.seen, "num_waiting") == [4, 6, 6]
    assert column(defence.policy.seen, "frac_prefix_hits") == pytest.approx([0.5, 0.3, 0.3])
    assert defence.counters() == {"lying_instances": 1, "lied_to": 1, "seen": 1}


def test_or_as_their_median():
    assert column(lied(replacement="median").policy.seen, "num_waiting") == [4, 5, 6]


def test_it_is_not_shown_better_than_it_says():
    defence = lied()
    after(defence, [0], recent_ttft_s=[0.2, 5.0, 0.0], num_waiting=[4, 50, 6])
    assert column(defence.policy.seen, "num_waiting") == [4, 50, 6]


def test_it_gets_another_chance():
    defence = lied()
    columns = {"recent_ttft_s": [0.2, 5.0, 0.0]}  # no first token comes: nothing new is known
    assert [after(defence, [0], **columns)[1] for _ in range(4)] == [True, True, False, False]
    after(defence, [0], recent_ttft_s=[0.2, 5.1, 0.0])
    assert defence.distrusted[1]
    assert defence.counters()["lying_instances"] == 2


def test_a_long_queue_that_was_reported_is_no_lie():
    defence = begun(LieDetection(Witness(), **QUICK))
    after(defence, [0, 0], num_waiting=0)
    after(defence, [1, 1], num_waiting=[0, 40, 0])  # promises 40 * 0.1 s and more
    assert after(defence, [0], recent_ttft_s=[0.2, 5.0, 0.0]) == [False, False, False]


def test_a_fleet_that_is_slow_together_does_not_lie():
    defence = begun(LieDetection(Witness(), **QUICK))
    after(defence, [0, 0, 1, 1, 2, 2])
    assert after(defence, [0], recent_ttft_s=[4.0, 5.0, 4.5]) == [False, False, False]


@pytest.mark.parametrize(
    ("options", "recent_ttft_s"),
    [({"min_ttft_s": 6.0}, 5.0), ({"min_requests": 3}, 5.0), ({"max_ratio": 50.0}, 5.0), ({}, 0.42)],
)
def test_within_the_limits_it_is_left_in_peace(options, recent_ttft_s):
    defence = begun(LieDetection(Witness(), **(QUICK | options)))
    after(defence, [0, 0, 1, 1])
    assert not any(after(defence, [0], recent_ttft_s=[0.2, recent_ttft_s, 0.0]))


def test_one_instance_alone_has_nobody_to_be_held_against():
    defence = begun(LieDetection(Witness(), **QUICK))
    after(defence, [1, 1, 1])
    assert not any(after(defence, [1], recent_ttft_s=[0.0, 50.0, 0.0]))


def test_where_nobody_is_believed_reports_stay():
    defence = lied()
    after(defence, [1], recent_ttft_s=[0.2, 5.0, 0.0], num_waiting=[4, 1, 6], mask=[0, 1, 0])
    assert column(defence.policy.seen, "num_waiting")[1] == 1
    assert defence.distrusted.tolist() == [False, True, False]


@pytest.mark.parametrize(
    "bad",
    [
        {"max_ratio": 0.5},
        {"min_ttft_s": -1.0},
        {"min_requests": 0},
        {"num_decisions": 0},
        {"forgetting": 1.0},
        {"replacement": "best"},
    ],
)
def test_bad_options_are_named(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is"):
        LieDetection(Witness(), **bad)
