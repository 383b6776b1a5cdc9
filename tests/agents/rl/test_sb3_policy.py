import numpy as np
import pytest
import torch

from agents.rl.network import ScoreNetwork
from agents.rl.sb3_policy import Sb3Policy
from envs.observation import ENCODED_NAMES, NUM_WAITING, encode, observation_space
from envs.toy import FasterInstance


def make_network():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = ScoreNetwork(len(ENCODED_NAMES), [16, 16], [16])
    torch.set_rng_state(state)
    return network


@pytest.fixture
def network():
    return make_network()


@pytest.fixture
def observation():
    space = observation_space(6)
    space.seed(0)
    observation = space.sample()
    observation["instances"] = np.random.default_rng(0).uniform(0, 1, (6, 21)).astype(np.float32)
    observation["mask"] = np.array([1, 0, 1, 1, 0, 1], np.int8)
    return observation


def scores_of(network, observation):
    encoded = encode(*(observation[name] for name in ("instances", "request", "mask")))
    mask = torch.from_numpy(observation["mask"])[None]
    return network(torch.from_numpy(encoded)[None], mask)[0].detach().numpy()


def test_the_best_valid_instance_is_chosen(network, observation):
    decision = Sb3Policy(network).act(observation)
    expected = np.where(observation["mask"], scores_of(network, observation), -np.inf)
    assert decision.instance == expected.argmax()
    np.testing.assert_allclose(decision.scores, expected, rtol=1e-4, atol=1e-5)
    assert decision.propensities.tolist() == np.eye(6)[decision.instance].tolist()


def test_nothing_is_left_to_chance_or_counted(network, observation):
    policy = Sb3Policy(network)
    chosen = set()
    for seed in range(5):
        policy.reset(np.random.default_rng(seed))
        chosen.add(policy.act(observation).instance)
    assert len(chosen) == 1
    assert policy.counters() == {}


def test_an_all_masked_fleet_is_an_error(network, observation):
    observation["mask"][:] = 0
    with pytest.raises(ValueError, match="every instance is masked"):
        Sb3Policy(network).act(observation)


def test_a_feature_that_is_nan_is_an_error_that_names_it(network, observation):
    observation["instances"][2, NUM_WAITING] = np.nan
    with pytest.raises(ValueError, match="num_waiting of instance 2"):
        Sb3Policy(network).act(observation)


def test_weights_that_diverged_are_an_error(network, observation):
    with torch.no_grad():
        network.head[-1].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="diverged"):
        Sb3Policy(network).act(observation)


def test_any_number_of_instances_is_served(network):
    policy = Sb3Policy(network)
    for num_instances, max_instances in ((2, 2), (4, 9), (30, 30)):
        env = FasterInstance(num_instances, max_instances)
        observation, _ = env.reset(seed=0)
        assert env.action_masks()[policy.act(observation).instance]
