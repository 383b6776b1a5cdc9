import numpy as np
import pytest

from agents.bandits.linear_model import LinearModel
from agents.bandits.linucb import LinUCB
from agents.bandits.thompson import ThompsonSampling

from .two_speed_fleet import Fleet, look, outcome


def test_model_by_hand():
    model = LinearModel(2, ridge=1.0, forgetting=1.0)
    model.update(np.array([1.0, 0.0]), -2.0)
    model.update(np.array([1.0, 0.0]), -4.0)
    mean, whitening = model.posterior()
    np.testing.assert_allclose(mean, [-2.0, 0.0])  # -6 / (1 + 2)
    np.testing.assert_allclose(whitening @ whitening.T, [[1 / 3, 0], [0, 1]])


def test_forgetting_by_hand():
    model = LinearModel(1, ridge=2.0, forgetting=0.5)
    model.update(np.array([1.0]), -1.0)  # precision 2 + 1, moment -1
    model.update(np.array([3.0]), -1.0)  # precision 2 + 1/2 + 9, moment -1/2 - 3
    mean, _ = model.posterior()
    np.testing.assert_allclose(mean, [-3.5 / 11.5])


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_model_equals_least_squares_solved_at_once(forgetting):
    rng = np.random.default_rng(0)
    contexts, rewards = rng.standard_normal((300, 6)), rng.standard_normal(300)
    model = LinearModel(6, ridge=0.7, forgetting=forgetting)
    for context, reward in zip(contexts, rewards, strict=True):
        model.update(context, reward)
    weights = forgetting ** np.arange(299, -1, -1)
    precision = contexts.T @ (weights[:, None] * contexts) + 0.7 * np.eye(6)
    mean, whitening = model.posterior()
    np.testing.assert_allclose(mean, np.linalg.solve(precision, contexts.T @ (weights * rewards)))
    np.testing.assert_allclose(whitening @ whitening.T, np.linalg.inv(precision), atol=1e-12)


def test_forgetting_stays_finite_where_a_feature_never_varies():
    model = LinearModel(3, ridge=1.0, forgetting=0.9)
    for _ in range(5000):
        model.update(np.array([1.0, 0.0, 0.0]), -1.0)
    mean, whitening = model.posterior()
    assert np.isfinite(mean).all()
    np.testing.assert_allclose(np.linalg.norm(whitening, axis=1)[1:], 1.0)


def test_linucb_bound_is_mean_plus_alpha_standard_deviations():
    observation = look(np.random.default_rng(0))
    bounds = []
    for alpha in (0.0, 1.0, 2.0):
        policy = LinUCB(alpha=alpha)
        policy.reset(np.random.default_rng(0))
        policy._model.update(np.ones(26), -1.0)
        bounds.append(policy.act(observation).scores)
    np.testing.assert_allclose(bounds[2] - bounds[1], bounds[1] - bounds[0])
    assert (bounds[1] > bounds[0]).all()


def test_forgetting_follows_a_change():
    model = LinearModel(26, ridge=1.0, forgetting=0.995)
    rng = np.random.default_rng(0)
    for sign in (1.0, -1.0):
        for _ in range(2000):
            context = rng.standard_normal(26)
            model.update(context, sign * context[0])
    assert model.posterior()[0][0] < -0.95


def test_thompson_chooses_as_often_as_it_says():
    policy = ThompsonSampling(num_draws=16, scale_s=0.3)
    policy.reset(np.random.default_rng(0))
    Fleet(seed=0).run(policy, 60)
    observation = look(np.random.default_rng(3))
    decisions = [policy.act(observation) for _ in range(3000)]
    chosen = np.bincount([decision.instance for decision in decisions], minlength=8) / 3000
    said = np.mean([decision.propensities for decision in decisions], axis=0)
    assert (chosen > 0.02).sum() > 1
    np.testing.assert_allclose(chosen, said, atol=0.03)


def test_thompson_without_scale_is_greedy():
    policy = ThompsonSampling(scale_s=0.0)
    policy.reset(np.random.default_rng(0))
    Fleet(seed=0).run(policy, 100)
    decision = policy.act(look(np.random.default_rng(0)))
    assert decision.propensity == 1
    assert decision.instance == decision.scores.argmax()


def test_long_ttfts_are_learned_as_the_longest():
    states = []
    for ttft_s in (5.0, 500.0):
        policy = LinUCB(max_ttft_s=5.0)
        policy.reset(np.random.default_rng(0))
        decision = policy.act(look(np.random.default_rng(0)))
        policy.observe([outcome(0, decision, ttft_s)])
        states.append(policy.state()["model"]["moment"])
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (LinUCB, {"alpha": -1}),
        (LinUCB, {"ridge": 0}),
        (LinUCB, {"forgetting": 0}),
        (LinUCB, {"max_ttft_s": 0}),
        (LinUCB, {"max_pending": 0}),
        (ThompsonSampling, {"scale_s": -1}),
        (ThompsonSampling, {"num_draws": 0}),
        *((LinUCB, {name: float("nan")}) for name in ("alpha", "ridge", "forgetting", "max_ttft_s")),
        *(
            (ThompsonSampling, {name: float("nan")})
            for name in ("scale_s", "ridge", "forgetting", "max_ttft_s")
        ),
        (LinUCB, {"alpha": float("inf")}),
        (LinUCB, {"ridge": float("inf")}),
        (ThompsonSampling, {"scale_s": float("inf")}),
    ],
)
def test_refuses_bad_arguments_by_name(make, argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        make(**argument)
