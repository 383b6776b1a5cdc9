"""What a router remembers of its sends for others."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.sends import MAX_KEYS, Send, Sends


@given(sizes=st.lists(st.integers(0, MAX_KEYS // 3), max_size=12), number=st.integers(0, 14))
def test_the_last_are_held_in_order_and_bounded(sizes, number):
    sends = Sends()
    for size in sizes:
        sends.add(Send(size, np.zeros(size, np.int64)))
    assert sends.number == len(sizes)
    held = [send.instance for send in sends.since(0)]
    assert sum(held) + len(held) <= MAX_KEYS
    assert held == sizes[len(sizes) - len(held) :]
    if len(held) < len(sizes):  # no more were forgotten than had to be
        assert sum(sizes[len(sizes) - len(held) - 1 :]) + len(held) + 1 > MAX_KEYS
    first = len(sizes) - len(held)
    assert [send.instance for send in sends.since(number)] == sizes[max(number, first) :]


def test_sends_without_keys_take_bounded_memory():
    sends = Sends()
    for _ in range(2 * MAX_KEYS):
        sends.add(Send(0, np.zeros(0, np.int64)))
    assert len(sends.since(0)) == MAX_KEYS
