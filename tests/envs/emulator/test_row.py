from typing import NamedTuple

import numpy as np
from numba import njit

from envs.emulator.row import row_of


class Inner(NamedTuple):
    records: np.ndarray
    cube: np.ndarray


class Outer(NamedTuple):
    inner: Inner
    numbers: np.ndarray
    fixed: np.ndarray


@njit
def _change(many, number):
    one = row_of(many, number)
    one.inner.records[1].amount += one.fixed[2]
    one.inner.cube[1, 2] = one.inner.cube.shape[0] * 100 + one.inner.cube.shape[1]
    for place in range(one.numbers.shape[0]):
        one.numbers[place] = number + place
    return one.numbers.sum()


def test_a_row_is_the_memory_of_its_world_alone():
    records = np.zeros((4, 3), np.dtype([("flag", "?"), ("amount", "f8")]))
    fixed = np.arange(12.0).reshape(4, 3)
    fixed.setflags(write=False)
    many = Outer(Inner(records, np.zeros((4, 2, 3), np.int32)), np.full((4, 5), -1), fixed)
    assert _change(many, 2) == 2 + 3 + 4 + 5 + 6
    expected = np.zeros((4, 3))
    expected[2, 1] = fixed[2, 2]
    assert (records["amount"] == expected).all()
    assert np.argwhere(many.inner.cube).tolist() == [[2, 1, 2]]
    assert many.inner.cube[2, 1, 2] == 203
    assert many.numbers[2].tolist() == [2, 3, 4, 5, 6]
    assert (many.numbers[[0, 1, 3]] == -1).all()
