import numpy as np
import pytest

from agents.defences.median import Median

from .look import Witness, begun, column, look


def plain(num_scrapes):
    """The median in place of every reading."""
    return Median(Witness(), num_scrapes, max_requests=0, max_frac=0)


def medians(readings, num_scrapes=3, **others):
    """What the policy sees of instance 0's num_waiting after each reading; age_s falls each time."""
    defence = begun(plain(num_scrapes))
    seen = []
    for number, reading in enumerate(readings):
        age_s = 0.1 if number % 2 else 0.05
        defence.act(look(num_waiting=[reading, 0, 0], snapshot_age_s=age_s, **others))
        seen.append(column(defence.policy.seen, "num_waiting")[0])
    return seen, defence


def test_a_lie_of_one_scrape_does_not_get_through():
    seen, defence = medians([4, 4, 0, 4, 5, 900, 4])
    assert seen == [4, 4, 4, 4, 4, 5, 5]
    assert defence.counters()["smoothed"] == 4


def test_a_lie_that_lasts_does():
    assert medians([4, 4, 4, 0, 0, 0])[0] == [4, 4, 4, 4, 0, 0]


def test_what_is_close_to_the_median_passes():
    defence = begun(Median(Witness(), 3, max_requests=2, max_frac=0.5))
    for num_waiting, usage in [(4, 0.2), (4, 0.2), (6, 0.6)]:
        defence.act(look(num_waiting=num_waiting, frac_kv_cache_usage=usage))
        assert column(defence.policy.seen, "num_waiting")[0] == num_waiting
    assert defence.counters()["smoothed"] == 0
    defence.act(look(num_waiting=9, frac_kv_cache_usage=0.0))
    assert column(defence.policy.seen, "num_waiting")[0] == 6
    assert column(defence.policy.seen, "frac_kv_cache_usage")[0] == 0.0


def test_one_scrape_is_no_defence():
    seen, defence = medians([4, 0, 9], num_scrapes=1)
    assert seen == [4, 0, 9]
    assert defence.counters()["smoothed"] == 0


def test_the_same_scrape_seen_again_is_no_new_reading():
    defence = begun(plain(3))
    ages = [(0.01, 5), (0.02, 9), (0.03, 9), (0.04, 9)]  # 9 is read once, however often it is looked at
    for age_s, value in ages:
        defence.act(look(num_waiting=value, snapshot_age_s=age_s))
    assert column(defence.policy.seen, "num_waiting") == [5, 5, 5]
    defence.act(look(num_waiting=9, snapshot_age_s=0.01))  # a new scrape, and the same value
    assert column(defence.policy.seen, "num_waiting") == [9, 9, 9]


def test_a_scrape_is_told_by_what_was_sent_since_too():
    defence = begun(plain(3))
    for value, num_sent in [(5, 2), (9, 3), (9, 0)]:
        defence.act(look(num_waiting=value, num_sent_since_scrape=num_sent, snapshot_age_s=0.01))
    assert column(defence.policy.seen, "num_waiting") == [9, 9, 9]


def test_instances_are_read_each_for_itself():
    defence = begun(plain(3))
    for values in ([1, 1, 1], [2, 1, 1], [3, 7, 1]):
        defence.act(look(num_running=values))
    assert column(defence.policy.seen, "num_running") == [2, 1, 1]


def test_an_episode_begins_without_a_past():
    _, defence = medians([9, 9, 9])
    begun(defence).act(look(num_waiting=1))
    assert column(defence.policy.seen, "num_waiting") == [1, 1, 1]


@pytest.mark.parametrize(("num_scrapes", "message"), [(4, "it must be odd"), (0, "a whole number from 1")])
def test_bad_numbers_are_named(num_scrapes, message):
    with pytest.raises(
        ValueError, match=f"num_scrapes is {num_scrapes}, {'it must be odd' if num_scrapes else ''}"
    ):
        plain(num_scrapes)


def test_a_memory_of_another_length_is_refused():
    memory = medians([1, 2, 3], num_scrapes=5)[1].memory()
    with pytest.raises(ValueError, match="holds 5 readings, num_scrapes is 3"):
        plain(3).load_memory(memory)
    assert np.array_equal(memory["readings"][:, 0, 0], [1, 1, 1, 2, 3])
