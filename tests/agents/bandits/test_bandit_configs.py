"""Each YAML names every argument of its class, with the class's own default."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from agents.policy import Learner

from .two_speed_fleet import look

CONF = Path(__file__).parents[3] / "conf" / "agent"
NAMES = ("linucb", "thompson", "lodestar", "predicted_latency", "marginal_delay", "exp4")


def nodes(config):
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from nodes(value)


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_the_arguments_with_their_defaults(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    for node in nodes(config):
        if not node.get("_target_", "").startswith("agents.bandits."):
            continue
        parameters = inspect.signature(get_class(node["_target_"])).parameters
        assert node.keys() - {"_target_"} == parameters.keys()
        for key, parameter in parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                value = tuple(node[key]) if isinstance(node[key], list) else node[key]
                assert value == parameter.default, key


@pytest.mark.parametrize("name", NAMES)
def test_builds_and_decides(name):
    policy = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(policy, Learner)
    policy.reset(np.random.default_rng(0))
    assert policy.act(look(np.random.default_rng(0))).propensity > 0
