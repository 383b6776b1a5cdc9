"""The environment in SB3's form is what ``DummyVecEnv`` makes of as many single ones, to the last bit."""

import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv

from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.sb3_vector import RoutingVecEnv
from envs.workload import generator
from reward.e2e import E2e
from reward.tpot import Tpot
from reward.weighted_sum import Weighted, WeightedSum


def options():
    fleet = {
        "h": {"profile": "h100_llama-3.1-8b", "max_model_len": 131072},
        "l": {"profile": "l40s_llama-3.1-8b", "max_model_len": 32768},
    }
    return {
        "cluster": cluster(fleet),
        "workload": generator.workload(
            num_generated=300, num_requests=20, start="random", rate_per_s=8.0, num_tenants=2
        ),
        "reward": WeightedSum({"e2e": Weighted(E2e(), 0.5), "tpot": Weighted(Tpot())}),
        "max_instances": 3,
    }


def pair(num_envs, **more):
    return DummyVecEnv([lambda: RoutingEnv(**options())] * num_envs), RoutingVecEnv(
        num_envs, **options(), **more
    )


def assert_same(expected, found):
    """Equal to the last bit, NaN to NaN."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(value, found[key])
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(expected, found, strict=True):
            assert_same(*pair)
    else:
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("completions", [False, True])
def test_same_as_single_environments(completions):
    singles, many = pair(4, completions=completions)
    assert (many.observation_space, many.action_space) == (singles.observation_space, singles.action_space)
    rng, num_ended = np.random.default_rng(0), 0
    for seed in (3, None):
        if seed is not None:
            assert many.seed(seed) == singles.seed(seed)
        expected, found = singles.reset(), many.reset()
        assert_same(expected, found)
        assert_same(singles.reset_infos, many.reset_infos)
        for _ in range(50):
            masks = get_action_masks(many)
            assert_same(get_action_masks(singles), masks)
            actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
            if completions:
                propensities = rng.random(4)
                for number, propensity in enumerate(propensities.tolist()):
                    singles.env_method("declare_propensity", propensity, indices=number)
                many.declare_propensities(propensities)
            expected, found = singles.step(actions), many.step(actions)
            if not completions:
                for info in expected[3]:
                    del info["completions"]
            assert_same(expected, found)
            assert_same(singles.reset_infos, many.reset_infos)
            num_ended += found[2].sum()
    assert num_ended == 16


def test_an_agent_learns_the_very_same():
    parameters = []
    for envs in pair(3):
        model = MaskablePPO(
            "MultiInputPolicy", envs, n_steps=16, batch_size=24, n_epochs=2, seed=5, device="cpu"
        )
        model.learn(96)
        parameters.append([parameter.detach().numpy() for parameter in model.policy.parameters()])
    assert_same(*parameters)


def test_what_sb3_asks_of_an_environment():
    singles, many = pair(3)
    for envs in (singles, many):
        envs.seed(0)
        envs.reset()
        assert is_masking_supported(envs)
        assert envs.render_mode is None
    assert many.get_attr("render_mode", indices=[0, 2]) == [None, None]
    assert_same(singles.env_method("action_masks", indices=1), many.env_method("action_masks", indices=1))
    assert_same(
        [mask() for mask in singles.get_attr("action_masks")],
        [mask() for mask in many.get_attr("action_masks")],
    )
    assert not any(many.env_is_wrapped(DummyVecEnv))
    assert not many.has_attr("num_wheels")
    for refused in (lambda: many.env_method("render"), lambda: many.set_attr("reward", None)):
        with pytest.raises(AttributeError):
            refused()
    assert list(many.get_images()) == [None] * 3
    many.close()
