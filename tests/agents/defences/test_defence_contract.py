"""What holds for every defence in conf/agent: it builds, leaves what is honest alone, lets learners learn."""

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_class
from omegaconf import OmegaConf

import agents.defences
from agents.bandits.linucb import LinUCB
from agents.config import register
from agents.defences.defence import Defence, distrusted_by, innermost, learns, with_innermost
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.smg_least_load import SmgLeastLoad
from agents.policy import Trainable
from agents.rollout import finish, play, policy_rng, replay
from conf.build import build

from .look import Witness, begun, look
from .worlds import small_env

CONF = Path(__file__).parents[3] / "conf" / "agent"
NAMES = sorted(path.stem for path in CONF.glob("defended_*.yaml"))
register()
every = pytest.mark.parametrize("name", NAMES)


def around(name, policy):
    """The configured defence around a policy."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    target = get_class(config.pop("_target_"))
    del config["defaults"]
    if name == "defended_fallback":
        config["fallback"] = LeastInFlight()
    return target(policy, **config)


def test_every_defence_has_a_configuration_of_its_name():
    modules = {path.stem for path in Path(agents.defences.__file__).parent.glob("*.py")}
    assert {f"defended_{module}" for module in modules - {"__init__", "defence", "ranges"}} == set(NAMES)


@every
def test_the_configuration_states_each_constant_and_its_default(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    inside = [next(iter(default)) for default in config.pop("defaults") if isinstance(default, dict)]
    parameters = inspect.signature(get_class(config.pop("_target_"))).parameters
    assert config.keys() | {key.removeprefix("/agent@") for key in inside} == parameters.keys()
    for key, value in config.items():
        assert parameters[key].default in (value, inspect.Parameter.empty)


@every
def test_what_is_defended_is_chosen_as_any_agent(name):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("evaluate", [f"+agent@policies.a={name}", "agent@policies.a.policy=llmd_weighted"])
    assert config.policies.a.policy._target_ == "agents.heuristics.llmd_weighted.LlmdWeighted"
    assert isinstance(build(config.policies.a, "policies.a"), Defence)


@every
def test_the_observation_is_left_as_it_is(name):
    defence, rng = begun(around(name, Witness())), np.random.default_rng(0)
    for _ in range(20):
        observation = look(
            num_waiting=rng.integers(0, 90, 3),
            num_in_flight=rng.integers(0, 9, 3),
            recent_ttft_s=rng.random(3),
        )
        before = copy.deepcopy(observation)
        defence.act(observation)
        for key, value in before.items():
            np.testing.assert_array_equal(observation[key], value)
            assert defence.policy.seen[key].dtype == value.dtype


@every
def test_what_is_inside_has_the_chances_of_one_without_defence(name):
    defence, alone = begun(around(name, Witness())), begun(Witness())
    assert defence.policy.chance == alone.chance


@every
def test_counters_begin_with_the_episode(name):
    defence = around(name, SmgLeastLoad())
    assert defence.counters() == {}
    play(small_env(60), defence, 0)
    counters = begun(defence).counters()
    assert counters == dict.fromkeys(defence.counted, 0)
    assert all(type(count) is int for count in counters.values())


@every
def test_a_learner_inside_goes_on_where_it_was_put_down(name):
    """Half an episode, put down, taken up by another: the same decisions and state as without a break."""
    env = small_env(120)

    def lied_to_at_the_end(defence, begun_episode):
        return finish(env, defence, begun_episode)

    whole = around(name, LinUCB())
    whole.reset(policy_rng(0))
    states = {}

    def note(instances, propensities):
        if len(instances) == 60:
            states["half"] = copy.deepcopy(whole.state()), list(instances), list(propensities)

    expected = finish(env, whole, replay(env, 0, (), ()), note)
    state, instances, propensities = states["half"]
    other = around(name, LinUCB())
    other.load_state(state)
    rest = lied_to_at_the_end(other, replay(env, 0, instances, propensities))
    assert rest.ledger.equals(expected.ledger)
    assert rest.counters == expected.counters


@every
def test_a_learner_trained_alone_is_taken_up(name):
    trained = begun(LinUCB())
    play(small_env(60), trained, 0)
    defence = around(name, LinUCB())
    defence.load_state(trained.state())
    np.testing.assert_array_equal(
        defence.policy.state()["model"]["moment"], trained.state()["model"]["moment"]
    )


@every
def test_each_router_has_a_memory_of_its_own(name):
    ledger = play(small_env(200, num_routers=3), around(name, SmgLeastLoad()), 0).ledger
    assert len(ledger) == 200


def test_another_defences_state_is_refused():
    state = begun(around("defended_median", LinUCB())).state()
    with pytest.raises(ValueError, match="it is of the defence 'median', this one is 'clip'"):
        around("defended_clip", LinUCB()).load_state(state)
    with pytest.raises(ValueError, match="SmgLeastLoad learns nothing"):
        around("defended_clip", SmgLeastLoad()).state()


def test_defences_are_seen_through():
    bandit, rule = LinUCB(), SmgLeastLoad()
    defence = around("defended_median", around("defended_clip", bandit))
    assert innermost(defence) is bandit
    assert learns(defence)
    assert not learns(around("defended_median", rule))
    assert not isinstance(defence, Trainable)
    assert with_innermost(defence, rule) is defence
    assert innermost(defence) is rule
    assert with_innermost(bandit, rule) is rule


def test_distrust_of_several_defences_adds_up():
    inner = begun(around("defended_trust_counters", Witness()))
    outer = around("defended_median", inner)
    assert distrusted_by(Witness()).tolist() == []
    begun(outer).act(look(num_in_flight=[9, 0, 0]))
    assert distrusted_by(outer).tolist() == [True, False, False]
