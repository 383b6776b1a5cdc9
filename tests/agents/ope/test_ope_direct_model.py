"""The models of costs, and that none is asked about what it was fitted to."""

import numpy as np
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from agents.bandits.predictor import Training
from agents.ope.direct_model import Linear, Network, cross_fitted, folds
from agents.ope.intervals import blocks
from conf.build import build
from tests.agents.ope.bandit_world import world

QUICK = Training(hidden_sizes=(32,), dropout=0.0, learning_rate=3e-3, batch_size=64, frac_validation=0.0)


class Memory:
    """Knows the rows that it was fitted to."""

    def fit(self, rows, cost, seed):
        known = {row.tobytes() for row in rows}
        return lambda rows: np.array(
            [[row.tobytes() in known for row in of_decision] for of_decision in rows], np.float64
        )


def test_no_decision_is_judged_by_a_model_that_saw_it():
    it = world(0, num_decisions=300)
    # Each row once: the request tells them apart.
    it.logged.request[:, 0] = np.arange(300)
    fold = folds(it.logged.episode, blocks(it.logged.episode, 20), 4)
    assert not cross_fitted(Memory(), it.logged, fold, 0).any()
    leaky = fold.copy()
    leaky[:] = np.arange(300) % 2
    it.logged.request[1::2] = it.logged.request[::2]
    it.logged.instances[1::2] = it.logged.instances[::2]
    assert cross_fitted(Memory(), it.logged, leaky, 0).any()


def test_a_fold_holds_whole_episodes_where_there_are_enough():
    episode = np.repeat(np.arange(5), 20)
    block = blocks(episode, 50)
    assert np.array_equal(folds(episode, block, 5), episode)
    assert set(folds(episode, block, 2)[episode == 2]) == {0}
    few = folds(episode // 3, block, 4)
    for number in range(4):
        assert len(np.unique(block[few == number])) >= 12
        assert not set(block[few == number]) & set(block[few != number])
    with pytest.raises(ValueError, match="num_folds is 5, and there are 3 stretches"):
        folds(np.zeros(3, np.int64), np.arange(3), 5)


def test_masked_instances_have_no_cost():
    it = world(0, num_decisions=100)
    it.logged.mask[:, 1] = it.logged.instance == 1
    fold = folds(it.logged.episode, blocks(it.logged.episode, 20), 4)
    predicted = cross_fitted(Linear(), it.logged, fold, 0)
    assert not predicted[it.logged.mask == 0].any()
    assert np.isfinite(predicted).all()


def latencies(seed, num=2000):
    """Rows, and costs that span three orders of magnitude."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0, 2, (num, 3)).astype(np.float32)
    mean = np.exp(3 * rows[:, 0] - 3)
    return rows, mean, mean * rng.exponential(size=num)


def test_a_network_knows_the_mean_of_latencies():
    rows, _, cost = latencies(0)
    fitted = Network(QUICK).fit(rows, cost, 0)
    new, mean, _ = latencies(1)
    found = fitted(new)
    for low, high in ((0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2)):  # the short ones as well as the long ones
        some = (new[:, 0] >= low) & (new[:, 0] < high)
        assert found[some].mean() == pytest.approx(mean[some].mean(), rel=0.15)
    linear = Linear().fit(rows, cost, 0)(new)
    assert np.abs(found - mean).mean() < 0.5 * np.abs(linear - mean).mean()
    far = np.full((1, 3), 1e6, np.float32)
    assert 0 < fitted(far)[0] <= cost.max()


def test_a_network_knows_the_chance_of_a_miss():
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (3000, 2)).astype(np.float32)
    missed = (rng.random(3000) < rows[:, 0]).astype(np.float64)
    found = Network(QUICK).fit(rows, missed, 0)(rows)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.abs(found - rows[:, 0]).mean() < 0.08


def test_costs_of_one_value_are_learned_as_that():
    rows = np.random.default_rng(0).uniform(0, 1, (30, 2)).astype(np.float32)
    for model in (Linear(), Network(QUICK)):
        np.testing.assert_allclose(model.fit(rows, np.full(30, 2.5), 0)(rows), 2.5)


def test_the_same_seed_gives_the_same_network():
    rows, _, cost = latencies(0, 300)
    found = [Network(QUICK).fit(rows, cost, seed)(rows) for seed in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="ridge is 0"):
        Linear(ridge=0)


@pytest.mark.parametrize("name", ["linear", "network"])
def test_every_option_is_built(name, pytestconfig):
    config = OmegaConf.load(pytestconfig.rootpath / "conf" / "direct_model" / f"{name}.yaml")
    assert isinstance(build(config, "direct_model"), get_class(config._target_))
