import numpy as np
import pytest

from envs.workload import mooncake
from envs.workload.hit_rate import ideal_hit_rate
from envs.workload.location import have, trace_path
from envs.workload.trace import Trace


def test_hand_counted_hits():
    trace = Trace(
        np.array([0.0, 1.0, 2.0]),
        np.array([64, 80, 96]),
        np.array([1, 1, 1]),
        hash_ids=np.array([0, 1, 0, 1, 2, 0, 3, 4]),
        hash_offsets=np.array([0, 2, 5, 8]),
        hash_block_tokens=32,
    )
    assert ideal_hit_rate(trace) == (0 + 2 + 1) / 8
    assert ideal_hit_rate(trace, 16) == (0 + 64 + 32) / (64 + 80 + 96)


def test_last_token_of_a_full_hit_is_computed():
    trace = Trace(
        np.array([0.0, 1.0]),
        np.array([64, 64]),
        np.array([1, 1]),
        hash_ids=np.array([0, 1, 0, 1]),
        hash_offsets=np.array([0, 2, 4]),
        hash_block_tokens=32,
    )
    assert ideal_hit_rate(trace) == 0.5
    assert ideal_hit_rate(trace, 16) == 48 / 128


def test_no_prefixes_no_hits():
    assert ideal_hit_rate(Trace(np.array([0.0]), np.array([50]), np.array([1]))) == 0.0


@pytest.mark.skipif(not have(mooncake.DEFAULT_FILE), reason="trace absent")
@pytest.mark.parametrize("jitter_s", [0.0, 3.0])
def test_mooncake_gives_the_published_rate(jitter_s):
    trace = mooncake.load(trace_path(mooncake.DEFAULT_FILE), jitter_s=jitter_s)
    assert ideal_hit_rate(trace) == pytest.approx(0.366, abs=5e-4)
