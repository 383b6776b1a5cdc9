import numpy as np
import pytest
from scipy.optimize import minimize

from agents.bandits.nonnegative_model import NonnegativeModel


def test_nothing_learned_is_the_prior():
    model = NonnegativeModel([0.5, 0.0, 2.0], ridge=3.0, forgetting=1.0, grain_s=0.2)
    np.testing.assert_allclose(model.weights, [0.5, 0.0, 2.0], atol=1e-12)


def test_weights_are_the_constrained_minimum():
    """Against a general solver on the docstring's objective, where the free minimum is negative."""
    rng = np.random.default_rng(0)
    terms = rng.uniform(0, 2, (40, 3))
    times = np.maximum(terms @ [1.0, -0.5, 0.3] + 0.2 + rng.normal(0, 0.05, 40), 0.01)
    prior, ridge, forgetting, grain_s = np.array([0.5, 0.2, 0.1]), 0.7, 0.95, 0.1
    model = NonnegativeModel(prior, ridge, forgetting, grain_s)
    for row, time_s in zip(terms, times, strict=True):
        model.update(row, time_s)
    age = forgetting ** np.arange(39, -1, -1)

    def objective(weights):
        errors = (terms @ weights - times) / (times + grain_s)
        return age @ errors**2 + ridge * ((weights - prior) ** 2).sum()

    found = minimize(objective, prior, bounds=[(0, None)] * 3, method="L-BFGS-B", tol=1e-14)
    np.testing.assert_allclose(model.weights, found.x, atol=1e-5)
    assert model.weights[1] == 0.0


def test_the_past_is_forgotten():
    model = NonnegativeModel([1.0], ridge=0.1, forgetting=0.9, grain_s=0.1)
    for time_s in (1.0,) * 100 + (3.0,) * 100:
        model.update(np.ones(1), time_s)
    np.testing.assert_allclose(model.weights, [3.0], rtol=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("prior", [-1.0]), ("prior", []), ("ridge", 0.0), ("forgetting", 0.0), ("grain_s", 0.0)],
)
def test_refuses_bad_settings_by_name(name, value):
    settings = {"prior": [1.0], "ridge": 1.0, "forgetting": 1.0, "grain_s": 1.0}
    with pytest.raises(ValueError, match=name):
        NonnegativeModel(**{**settings, name: value})


def test_refuses_the_state_of_another_size():
    state = NonnegativeModel([1.0, 1.0], 1.0, 1.0, 1.0).state()
    with pytest.raises(ValueError, match="precision has shape"):
        NonnegativeModel([1.0], 1.0, 1.0, 1.0).load_state(state)
