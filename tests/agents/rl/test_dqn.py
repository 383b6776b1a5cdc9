import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.rl.dqn import MASKED_VALUE
from envs.encoded import EncodedObservation
from envs.toy import Masked

from .toy_agents import make_agent

NUM_ENVS = 4


@pytest.fixture
def model():
    state = torch.get_rng_state()
    envs = DummyVecEnv([lambda: EncodedObservation(Masked(max_instances=6))] * NUM_ENVS)
    model = make_agent("dqn").build(envs, 1000)
    torch.set_rng_state(state)
    envs.seed(0)
    model._last_obs = envs.reset()
    return model


def test_masked_values_never_win_the_bootstrap(model):
    observation, _ = model.policy.obs_to_tensor(model._last_obs)
    for network in (model.q_net, model.q_net_target):
        values = network(observation)
        assert (values[observation["mask"] == 0] == MASKED_VALUE).all()
        assert (values.max(dim=1).values > MASKED_VALUE / 2).all()


def test_a_state_without_a_valid_instance_has_finite_modest_values(model):
    observation, _ = model.policy.obs_to_tensor(model._last_obs)
    observation["mask"] = torch.zeros_like(observation["mask"])
    assert model.q_net_target(observation).abs().max() < 1e3


def test_exploration_draws_uniformly_among_the_valid(model):
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    mask = model._last_obs["mask"]
    drawn = np.zeros(mask.shape)
    num_draws = 3000
    for _ in range(num_draws):
        actions, _ = model._sample_action(learning_starts=10)
        drawn[np.arange(NUM_ENVS), actions] += 1
    np.random.set_state(state)  # noqa: NPY002
    np.testing.assert_allclose(drawn / num_draws, mask / mask.sum(axis=1, keepdims=True), atol=0.04)


def test_exploration_falls_over_the_whole_run_and_not_within_a_segment(model):
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    observation, _ = model.policy.obs_to_tensor(model._last_obs)
    best = model.q_net(observation).argmax(dim=1).numpy()

    def share_of_best(num_timesteps):
        model.num_timesteps = num_timesteps
        return np.mean([model._sample_action(0)[0] == best for _ in range(1000)])

    shares = [share_of_best(num_timesteps) for num_timesteps in (0, 150, 300, 900)]
    np.random.set_state(state)  # noqa: NPY002
    np.testing.assert_allclose(shares, [1 / 3, 0.66, 0.98 + 0.02 / 3, 0.98 + 0.02 / 3], atol=0.03)


def test_a_target_interval_below_one_step_is_refused():
    with pytest.raises(ValueError, match="target_update_interval is 2"):
        make_agent("dqn", target_update_interval=2)
