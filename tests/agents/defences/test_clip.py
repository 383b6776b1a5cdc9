import pytest

from agents.defences.clip import Clip
from agents.defences.ranges import save

from .look import Witness, begun, column, look


def test_values_beyond_the_range_are_put_on_its_edge():
    defence = begun(Clip(Witness(), {"num_waiting": [1, 5], "recent_ttft_s": [0, 2]}))
    defence.act(look(num_waiting=[0, 3, 90], recent_ttft_s=[1, 7, 2], num_running=100))
    seen = defence.policy.seen
    assert column(seen, "num_waiting") == [1, 3, 5]
    assert column(seen, "recent_ttft_s") == [1, 2, 2]
    assert column(seen, "num_running") == [100, 100, 100]
    assert defence.counters() == {"clipped": 1, "seen": 1}


def test_what_is_within_or_masked_is_not_counted():
    defence = begun(Clip(Witness(), {"num_waiting": [0, 5]}))
    defence.act(look(num_waiting=[0, 5, 6], mask=[1, 1, 0]))
    assert defence.counters()["clipped"] == 0


def test_ranges_are_read_from_a_file(tmp_path):
    save(tmp_path / "ranges.json", {"num_waiting": [0, 5]})
    assert Clip(Witness(), str(tmp_path / "ranges.json")).ranges == {"num_waiting": [0.0, 5.0]}


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "give at least one"),
        ({"num_wating": [0, 1]}, "no instance has a feature 'num_wating'; did you mean num_waiting"),
        ({"num_waiting": [2, 1]}, r"num_waiting is \[2, 1\], it must be finite, the first not above"),
        ({"num_waiting": [0, float("nan")]}, r"num_waiting is \[0, nan\]"),
        ({"num_waiting": [0]}, r"num_waiting is \[0\], it must be \[lowest, highest\]"),
        ({"num_waiting": 3}, "num_waiting is 3, it must be"),
    ],
)
def test_bad_ranges_are_named(ranges, message):
    with pytest.raises(ValueError, match=message):
        Clip(Witness(), ranges)
