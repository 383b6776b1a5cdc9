import pytest

from agents.distill.basis import EXPECTED_TTFT, TERMS, excess
from agents.distill.expression import Branch, Feature, Fleet, Number, num_nodes, parts
from agents.distill.unit import product, ratio, text_of, unit
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES
from tests.agents.distill.rules import FORMULA, OWN, TREE, weighed


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (unit("tokens/s"), "tokens/s"),
        (unit("0 or 1"), "1"),
        (ratio(unit("tokens"), unit("tokens/s")), "s"),
        (ratio(unit("s"), product(unit("requests"), unit("tokens"))), "s/(requests·tokens)"),
        (ratio(unit("1"), product(unit("s"), unit("s"))), "1/s^2"),
    ],
)
def test_units_are_computed_and_written(of, text):
    assert text_of(of) == text


def test_every_unit_of_the_table_is_read():
    for row in (*INSTANCE_FEATURES, *REQUEST_FEATURES):
        assert text_of(unit(row.unit)) == row.unit.replace("0 or 1", "1")


def test_expected_ttft_is_a_time():
    assert text_of(EXPECTED_TTFT.unit) == text_of(OWN.unit) == "s"
    assert text_of(excess(EXPECTED_TTFT).unit) == "s"
    assert {text_of(term.expression.unit) for term in TERMS if term.is_work} == {"s"}


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"requests \+ s: units differ"):
        Feature("num_waiting") + Feature("recent_ttft_s")
    with pytest.raises(ValueError, match="'num_wating' is no feature"):
        Feature("num_wating")
    with pytest.raises(ValueError, match="'session_key' is no feature that can be computed with"):
        Feature("session_key")
    with pytest.raises(ValueError, match="least_turn: turn is the same for all instances"):
        Fleet("least", Feature("turn"))


def test_operands_come_before_what_is_made_of_them():
    found = parts(TREE)
    assert len(found) == len(set(found))
    for place, part in enumerate(found):
        assert all(found.index(operand) < place for operand in part.operands)


def test_nodes_counted_by_hand():
    assert num_nodes(Feature("num_waiting")) == 1
    assert num_nodes(OWN) == 3
    assert num_nodes(OWN + weighed(0.5, Feature("num_waiting"))) == 7
    # prompt <= 512; a name + 0.3 * x; a / b * c - 0.25 * d; the name is (a + e) / b
    assert num_nodes(FORMULA) == 1 + 5 + 9 + 5
    # four branches, five leaves; (a + b) / c; a name - a name
    assert num_nodes(TREE) == 4 + 5 + 5 + 3
    # a branch on what has no name costs its length
    assert num_nodes(Branch(OWN, 1.0, Number(0.0), Number(1.0))) == 3 + 2
