"""Packed arrays, against bytes by hand and a reader of its own."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agents.viewer.packing import MAX_WHOLE, floats, whole


def unpacked(held):
    """The array that a page reads, by the words of the module's docstring."""
    data = zlib.decompress(base64.b64decode(held["data"]))
    if held["step"] is None:
        return np.frombuffer(data, "<f4").reshape(held["shape"])
    numbers, number, weight = [], 0, 1
    for byte in data:
        number += (byte % 128) * weight
        weight *= 128
        if byte < 128:
            numbers.append(-(number + 1) // 2 if number % 2 else number // 2)
            number, weight = 0, 1
    assert weight == 1
    return np.array(numbers).reshape(held["shape"]).cumsum(axis=-1) * held["step"]


def test_bytes_by_hand():
    held = whole([[0.0, 0.5, -0.5], [32.0, 32.0, 0.2]], 0.5)
    # Multiples 0 1 -1 and 64 64 0, differences 0 1 -2 and 64 0 -64, signs in the lowest bit.
    assert zlib.decompress(base64.b64decode(held["data"])) == bytes([0, 2, 3, 128, 1, 0, 127])
    assert held["shape"] == [2, 3]
    assert unpacked(held).tolist() == [[0.0, 0.5, -0.5], [32.0, 32.0, 0.0]]


@given(
    arrays.arrays(
        np.int64,
        arrays.array_shapes(min_dims=1, max_dims=3, max_side=6),
        elements=st.integers(1 - MAX_WHOLE, MAX_WHOLE - 1),
    )
)
def test_whole_numbers_come_back(values):
    assert (unpacked(whole(values)) == values).all()


@given(arrays.arrays(np.float64, 9, elements=st.floats(-1e6, 1e6)), st.sampled_from([1e-4, 1e-3, 0.5, 1.0]))
def test_others_come_back_to_half_a_step(values, step):
    assert np.abs(unpacked(whole(values, step)) - values).max() <= 0.5001 * step


def test_floats_come_back_with_what_is_no_number():
    values = np.array([[-np.inf, 0.1], [np.nan, -3e5]], np.float32)
    assert np.array_equal(unpacked(floats(values)), values, equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**51])
def test_what_cannot_be_packed_is_named(value):
    with pytest.raises(ValueError, match=f"cannot pack {value} in steps of 1.0"):
        whole([1.0, value])
