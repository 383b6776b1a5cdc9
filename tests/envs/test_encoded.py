import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs.encoded import EncodedObservation, encoded_space
from envs.observation import ENCODED_NAMES, encode, observation_space
from envs.toy import Backlog, FasterInstance, Masked


def test_space_has_a_column_for_each_encoded_name_and_finite_bounds():
    space = encoded_space(3)
    assert space["instances"].shape == (3, len(ENCODED_NAMES))
    assert np.isfinite(space["instances"].low).all()
    assert np.isfinite(space["instances"].high).all()
    assert space["mask"] == spaces.MultiBinary(3)


def test_space_contains_whatever_the_raw_space_contains():
    raw, space = observation_space(4), encoded_space(4)
    raw.seed(0)
    for low, high in ((0, 1), (0, 0), (1, 1)):
        observation = raw.sample()
        for name in ("instances", "request"):
            corners = [raw[name].low, raw[name].high]
            if low == high:
                observation[name] = corners[low]
        encoded = encode(observation["instances"], observation["request"], observation["mask"])
        assert encoded in space["instances"]
    for _ in range(100):
        observation = raw.sample()
        encoded = encode(observation["instances"], observation["request"], observation["mask"])
        assert encoded in space["instances"]


@pytest.mark.parametrize("make", [FasterInstance, Masked, Backlog])
def test_observations_lie_in_the_space_and_are_those_of_encode(make):
    raw, env = make(), EncodedObservation(make())
    observation, _ = raw.reset(seed=0)
    encoded, _ = env.reset(seed=0)
    done = False
    while not done:
        assert encoded in env.observation_space
        assert np.array_equal(
            encoded["instances"],
            encode(observation["instances"], observation["request"], observation["mask"]),
        )
        assert np.array_equal(env.action_masks(), raw.action_masks())
        action = raw.optimal_action()
        observation, *_ = raw.step(action)
        encoded, _, done, _, _ = env.step(action)


def test_masks_pass_through_other_wrappers():
    env = EncodedObservation(TimeLimit(Masked(), 5))
    env.reset(seed=0)
    assert env.action_masks().dtype == np.bool_
    assert np.array_equal(env.action_masks(), env.unwrapped.action_masks())


def test_another_observation_space_is_refused():
    with pytest.raises(ValueError, match="observation space"):
        EncodedObservation(gym.make("CartPole-v1"))
