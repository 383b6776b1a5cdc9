import numpy as np
import pytest

from agents.bandits.pace import Pace


def test_an_instance_that_takes_twice_as_long():
    pace = Pace(memory=30.0, prior=1.0)
    for _ in range(300):
        pace.update(2, 1.0, 2.0)
        pace.update(0, 1.0, 1.0)
    factors = pace.of(np.arange(5))
    assert factors[[0, 1, 3, 4]].tolist() == [1.0] * 4
    number = 1 / (1 - np.exp(-1 / 30))  # of samples remembered
    np.testing.assert_allclose(factors[2], 2 ** (number / (number + 1)), rtol=1e-3)


def test_what_tells_half_counts_half():
    pace, whole = Pace(prior=1.0), Pace(prior=1.0)
    pace.update(0, 1.0, 9.0, weight=0.5)
    np.testing.assert_allclose(pace.of(np.array([0])), 9 ** (0.5 / 1.5))
    for _ in range(2):
        pace.update(1, 1.0, 2.0, weight=0.5)
    whole.update(1, 1.0, 2.0)
    assert 1.0 < pace.of(np.array([1]))[0] < whole.of(np.array([1]))[0]  # forgets half in between


def test_one_slow_answer_is_no_slow_instance_and_recovery_is_seen():
    pace = Pace(memory=10.0, prior=5.0)
    pace.update(1, 1.0, 4.0)
    np.testing.assert_allclose(pace.of(np.array([1])), 4 ** (1 / 6))
    for _ in range(50):
        pace.update(1, 1.0, 1.0)
    np.testing.assert_allclose(pace.of(np.array([1])), 1.0, atol=0.01)
    pace.update(1, 1.0, 9.0)
    pace.reset()
    assert pace.of(np.array([1])) == [1.0]


@pytest.mark.parametrize("name", ["memory", "prior"])
def test_refuses_bad_settings_by_name(name):
    with pytest.raises(ValueError, match=name):
        Pace(**{name: 0.0})
