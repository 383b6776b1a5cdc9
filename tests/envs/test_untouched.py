import numpy as np
import pytest

from envs.untouched import untouched


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 5), np.float64), ((2, 0), np.int32), ((7,), [("a", "i8"), ("b", "?")])]
)
def test_it_is_like_zeros(shape, dtype):
    array, zeros = untouched(shape, dtype), np.zeros(shape, dtype)
    assert (array.dtype, array.shape, array.tobytes()) == (zeros.dtype, zeros.shape, zeros.tobytes())
    assert array.flags.writeable
    assert array.flags.aligned
    assert array.flags.c_contiguous


def test_memory_is_taken_where_it_is_written_to():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    array = untouched((1 << 31,), np.uint8)[:: 1 << 27]
    array += 1
    assert array.sum() == 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16
