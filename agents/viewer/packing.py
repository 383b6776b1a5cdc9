"""Arrays as short text inside of a page; ``page/unpack.js`` reads them.

What changes little from one moment to the next takes little room: each number is a whole multiple of a step,
written as its difference from the one before it in a varint (LEB128, the sign in the lowest bit), deflated
(zlib), in base64.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_WHOLE = 2**51
"""Multiples of a step below this, and what their differences are written as, are exact in JavaScript."""


def whole(values: ArrayLike, step: float = 1.0) -> dict[str, Any]:
    """Pack numbers, rounded to the nearest multiple of ``step``.

    Args:
        values: ``[..., num]``; those of the last axis follow each other in time.
        step: The least difference that is kept.

    Raises:
        ValueError: A number is not finite, or too large.
    """
    array = np.asarray(values, np.float64)
    multiples = np.rint(array / step)
    if not (np.abs(multiples) < MAX_WHOLE).all():  # NaN is not, either
        raise ValueError(f"cannot pack {array[~(np.abs(multiples) < MAX_WHOLE)][0]} in steps of {step}")
    numbers = multiples.astype(np.int64)
    differences = np.diff(numbers, axis=-1, prepend=0).ravel()
    return {
        "shape": list(array.shape),
        "step": step,
        "data": _text(_varints((differences << 1) ^ (differences >> 63))),
    }


def floats(values: ArrayLike) -> dict[str, Any]:
    """Pack numbers as they are, in float32; infinities and NaN too."""
    array = np.asarray(values, "<f4")
    return {"shape": list(array.shape), "step": None, "data": _text(array.tobytes())}


def _varints(numbers: NDArray[np.int64]) -> bytes:
    """Numbers from 0 in bytes of seven bits, the lowest first; all but the last of each have the eighth."""
    num_bytes = np.ones(len(numbers), np.int64)
    for place in range(1, 8):
        num_bytes += numbers >= 1 << (7 * place)
    written = np.empty(int(num_bytes.sum()), np.uint8)
    begins = np.cumsum(num_bytes) - num_bytes
    for place in range(8):
        has = num_bytes > place
        more = num_bytes[has] > place + 1
        written[begins[has] + place] = ((numbers[has] >> (7 * place)) & 127) | (more * 128)
    return written.tobytes()


def _text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")
