"""A recorded attack is read back as it was written, and refused where it is not what it says."""

from __future__ import annotations

import numpy as np
import pytest

from adversary.threat import Budget, Knob
from adversary.trace import AttackTrace

KNOBS = (Knob("rate_factor", "1", 0.5, 2.0, 1.0), Knob("failed[1]", "on", 0.0, 1.0, 0.0, 1, True))
VALUES = np.array([[1.0, 0.0], [1.3, 1.0], [1.1, 0.0]])


def test_round_trip(tmp_path):
    trace = AttackTrace(
        "world", KNOBS, Budget(1.0, 2, 1), VALUES, 5.0, {"attacker": "search", "seeds": [1, 2]}
    )
    trace.save(tmp_path / "a.parquet")
    held = AttackTrace.load(tmp_path / "a.parquet")
    assert np.array_equal(held.values, VALUES)
    assert (held.knobs, held.budget, held.step_s, held.about) == (KNOBS, trace.budget, 5.0, trace.about)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (AttackTrace("world", KNOBS, Budget(0.1), VALUES, 5.0), "breaks its threat model .* slope"),
        (AttackTrace("feature", KNOBS, Budget(), VALUES, 5.0), "step_s is 5.0"),
        (AttackTrace("cloud", KNOBS, Budget(), VALUES), "level is 'cloud'"),
    ],
)
def test_a_trace_that_breaks_its_rules_is_refused(tmp_path, trace, message):
    trace.save(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"a.parquet: .*{message}"):
        AttackTrace.load(tmp_path / "a.parquet")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match="not a recorded attack"):
        AttackTrace.load(path)
    path.write_bytes(b"PAR1 something")
    with pytest.raises(ValueError, match="not a recorded attack"):
        AttackTrace.load(path)
