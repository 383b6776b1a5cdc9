from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.prefix_index import PrefixIndex


class Model:
    """The same index, slow and plain: per instance an ordered dict from key to the time of its last use."""

    def __init__(self, num_instances, capacity, max_age_s):
        self.capacity, self.max_age_s = capacity, max_age_s
        self.used = [OrderedDict() for _ in range(num_instances)]

    def sent(self, instance, keys, now_s):
        for key in reversed(keys[: self.capacity]):
            self.used[instance].pop(key, None)
            if len(self.used[instance]) == self.capacity:
                self.used[instance].popitem(last=False)
            self.used[instance][key] = now_s

    def match(self, keys, now_s):
        depths = []
        for used in self.used:
            depth = 0
            while depth < len(keys) and used.get(keys[depth], np.nan) >= now_s - self.max_age_s:
                depth += 1
            depths.append(depth)
        return depths


def chain(path):
    """Keys of a path through a tree of prefixes: equal key = equal whole path."""
    keys, key = [], 7
    for step in path:
        key = (key * 1_000_003 + step + 1) % (2**61 - 1)
        keys.append(key)
    return keys


paths = st.lists(st.integers(0, 2), max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), paths), max_size=40),
    st.integers(1, 12),
    st.sampled_from([float("inf"), 5.0]),
)
def test_agrees_with_the_plain_model(history, capacity, max_age_s):
    index = PrefixIndex(3, block_size=16, tokens_per_key=32, capacity=capacity, max_age_s=max_age_s)
    model = Model(3, capacity, max_age_s)
    for now_s, (instance, path) in enumerate(history):
        keys = chain(path)
        hashes = np.repeat(np.array(keys, np.int64), 2)  # two 16-token blocks a key
        tokens, used_at_s = index.match(hashes, now_s)
        depths = model.match(keys, now_s)
        assert tokens.tolist() == [32 * depth for depth in depths]
        for number, depth in enumerate(depths):
            expected = model.used[number][keys[depth - 1]] if depth else -np.inf
            assert used_at_s[number] == expected
        index.sent(instance, hashes, now_s)
        model.sent(instance, keys, now_s)


def test_reset_forgets():
    index = PrefixIndex(2, capacity=8)
    hashes = np.arange(1, 9)
    index.sent(1, hashes, 0.0)
    assert index.match(hashes, 1.0)[0].tolist() == [0, 128]
    index.reset()
    assert index.match(hashes, 1.0)[0].tolist() == [0, 0]


def test_prompt_shorter_than_a_key_matches_nothing():
    index = PrefixIndex(2)
    index.sent(0, np.arange(1, 4), 0.0)
    tokens, used_at_s = index.match(np.arange(1, 4), 1.0)
    assert tokens.tolist() == [0, 0]
    assert np.isneginf(used_at_s).all()


@pytest.mark.parametrize("options", [{"tokens_per_key": 40}, {"capacity": 0}, {"max_age_s": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        PrefixIndex(2, **options)
