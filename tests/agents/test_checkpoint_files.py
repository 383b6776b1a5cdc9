import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import checkpoint

plain = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text()
arrays = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(lambda values: np.array(values, np.int64))
states = st.recursive(
    plain | arrays,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text().filter(lambda key: key != "array"), children, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(state=st.dictionaries(st.sampled_from("abc"), states))
def test_what_is_saved_is_loaded(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "state.npz"
    checkpoint.save(path, state)
    assert same(checkpoint.load(path), state)
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_keys_that_cannot_be_told_from_arrays_are_refused(tmp_path):
    for state in ({"a": {"array": 1}}, {"a": {3: 1}}):
        with pytest.raises(TypeError, match="they must be names, not 'array' alone"):
            checkpoint.save(tmp_path / "state.npz", state)


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save(path, {"a": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"a": object()})
    assert checkpoint.load(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"", lambda data: b"no archive"])
def test_damaged_file_is_named(damage, tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save(path, {"a": np.arange(1000)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(checkpoint.CheckpointError, match=r"state\.npz: not a whole checkpoint"):
        checkpoint.load(path)
