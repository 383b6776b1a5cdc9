"""What holds for every algorithm: learning, masks, determinism, resumption."""

import inspect

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from hydra.utils import instantiate
from omegaconf import OmegaConf

from agents.policy import Policy
from agents.rl.checkpoint import NAME
from envs.toy import Backlog, FasterInstance, Masked

from .toy_agents import (
    CLASSES,
    checkpoint_of,
    configuration,
    global_randomness,
    learn,
    make_agent,
    share_of_optimum,
)

TOYS = {"faster": FasterInstance, "masked": Masked, "backlog": Backlog}
NUM_TIMESTEPS = {"maskable_ppo": 6000, "dqn": 4000, "qr_dqn": 4000}
FILLED = {"dqn": {"buffer_size": 600}, "qr_dqn": {"buffer_size": 600}}
"""Replay buffers that are full before the run ends."""


@pytest.fixture(params=CLASSES)
def name(request):
    return request.param


@pytest.mark.parametrize("toy", TOYS)
def test_the_optimum_is_learned(name, toy, tmp_path):
    agent = make_agent(name)
    # A masked action is an error in the toys: that training ends shows that none was tried.
    learn(agent, TOYS[toy], tmp_path, total=NUM_TIMESTEPS[name], every=2000)
    policy: Policy = agent.policy(tmp_path)
    assert share_of_optimum(TOYS[toy](), policy) > 0.95

    if toy == "faster":
        check_that_other_fleets_are_served(policy)


def check_that_other_fleets_are_served(policy):
    """By what was learned on four instances."""
    for env in (FasterInstance(8), FasterInstance(3, max_instances=8), Masked(6, max_instances=16)):
        assert share_of_optimum(env, policy) > 0.9


def test_training_twice_gives_the_same_weights_and_another_seed_others(name, tmp_path):
    for directory, seed in (("first", 0), ("second", 0), ("other", 1)):
        learn(make_agent(name), Backlog, tmp_path / directory, seed=seed)
    first, second, other = (checkpoint_of(tmp_path / d) for d in ("first", "second", "other"))
    assert first == second
    assert any("policy" in key and first[key] != other[key] for key in first)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    checkpoints = {}
    for name in CLASSES:
        directory = tmp_path_factory.mktemp(name)
        learn(make_agent(name, **FILLED.get(name, {})), Backlog, directory)
        checkpoints[name] = checkpoint_of(directory)
    return checkpoints


class Fragile(gym.Wrapper):
    """Breaks after so many steps of all its like."""

    def __init__(self, env, steps_left):
        super().__init__(env)
        self.steps_left = steps_left

    def step(self, action):
        self.steps_left[0] -= 1
        if self.steps_left[0] < 0:
            raise KeyboardInterrupt
        return self.env.step(action)


@pytest.mark.parametrize("num_steps", [1, 511, 513, 700, 1023])
def test_a_run_killed_anywhere_and_resumed_ends_as_if_it_had_not_been(
    name, num_steps, uninterrupted, tmp_path
):
    make = lambda: make_agent(name, **FILLED.get(name, {}))  # noqa: E731
    steps_left = [num_steps]
    before = global_randomness()
    with pytest.raises(KeyboardInterrupt):
        learn(make(), lambda: Fragile(Backlog(), steps_left), tmp_path)
    assert global_randomness() == before
    assert (tmp_path / NAME).exists() == (num_steps >= 512)
    learn(make(), Backlog, tmp_path)
    assert checkpoint_of(tmp_path) == uninterrupted[name]


def test_ctrl_c_in_progress_leaves_a_checkpoint_that_is_resumed(name, uninterrupted, tmp_path):
    make = lambda: make_agent(name, **FILLED.get(name, {}))  # noqa: E731
    num_interrupts = 0

    def interrupt(num_timesteps, metrics):
        raise KeyboardInterrupt

    while num_interrupts < 20:
        try:
            learn(make(), Backlog, tmp_path, progress=interrupt)
            break
        except KeyboardInterrupt:
            num_interrupts += 1
            if name == "maskable_ppo":  # one rollout is half a segment: the first never gets further
                break
    if name != "maskable_ppo":
        assert num_interrupts == 2  # each segment ends with a report, after its checkpoint
    learn(make(), Backlog, tmp_path)
    assert checkpoint_of(tmp_path) == uninterrupted[name]


def test_a_finished_run_is_left_as_it_is(name, tmp_path):
    learn(make_agent(name), Backlog, tmp_path, total=512)
    written_at = (tmp_path / NAME).stat().st_mtime_ns
    learn(make_agent(name), Backlog, tmp_path, total=512)
    assert (tmp_path / NAME).stat().st_mtime_ns == written_at


def test_global_randomness_is_left_alone(name, tmp_path):
    before = global_randomness()
    learn(make_agent(name), Backlog, tmp_path, total=512)
    make_agent(name).policy(tmp_path)
    assert global_randomness() == before


def test_a_damaged_checkpoint_is_refused(name, tmp_path):
    learn(make_agent(name), Backlog, tmp_path, total=512)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is damaged"):
        learn(make_agent(name), Backlog, tmp_path)
    with pytest.raises(ValueError, match="is damaged"):
        make_agent(name).policy(tmp_path)


def test_a_checkpoint_of_another_run_is_refused(name, tmp_path):
    learn(make_agent(name), Backlog, tmp_path, total=512)
    with pytest.raises(ValueError, match="learning_rate"):
        learn(make_agent(name, learning_rate=1e-5), Backlog, tmp_path, total=512)
    with pytest.raises(ValueError, match="seed = 0, this one has 1"):
        learn(make_agent(name), Backlog, tmp_path, seed=1, total=512)
    with pytest.raises(ValueError, match="total_timesteps"):
        learn(make_agent(name), Backlog, tmp_path, total=1024)
    other = next(key for key in CLASSES if key != name)
    with pytest.raises(ValueError, match="algorithm"):
        make_agent(other).policy(tmp_path)


def test_a_fleet_of_another_size_is_refused_on_resumption(name, tmp_path):
    steps_left = [600]
    with pytest.raises(KeyboardInterrupt):
        learn(make_agent(name), lambda: Fragile(Backlog(3), steps_left), tmp_path)
    with pytest.raises(ValueError, match="max_instances = 3, this one has 4"):
        learn(make_agent(name), lambda: Backlog(3, max_instances=4), tmp_path)


def test_environments_that_changed_are_refused_on_resumption(name, tmp_path):
    steps_left = [600]
    with pytest.raises(KeyboardInterrupt):
        learn(make_agent(name), lambda: Fragile(Backlog(4), steps_left), tmp_path)
    with pytest.raises(ValueError, match="other environments"):
        learn(make_agent(name), lambda: FasterInstance(4), tmp_path)


def test_episodes_go_on_over_checkpoints(name, tmp_path):
    reports = []
    learn(
        make_agent(name),
        lambda: FasterInstance(num_decisions=300),  # a segment is 128 decisions of each environment
        tmp_path,
        total=2048,
        progress=lambda _, metrics: reports.append(metrics),
    )
    assert sum(metrics["num_episodes"] for metrics in reports) == 4
    assert [m["episode_length_mean"] for m in reports if m["num_episodes"]] == [300]


def test_episodes_and_environments_have_seeds_of_their_own(tmp_path):
    seeds = []

    class Seeded(gym.Wrapper):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed, options=options)

    learn(make_agent("maskable_ppo"), lambda: Seeded(FasterInstance()), tmp_path, total=512)
    assert len(seeds) == len(set(seeds)) == 512 // 32 + 4


def test_progress_tells_of_returns_in_the_unit_of_the_environment(name, tmp_path):
    reports = []
    agent = make_agent(name, reward_scale=0.01)
    learn(
        agent,
        FasterInstance,
        tmp_path,
        total=2048,
        every=1024,
        progress=lambda num_timesteps, metrics: reports.append((num_timesteps, metrics)),
    )
    times = [num_timesteps for num_timesteps, _ in reports]
    assert times == sorted(set(times))
    assert times[-1] == 2048
    assert sum(metrics["num_episodes"] for _, metrics in reports) == 2048 / 32
    env = FasterInstance()
    assert env.optimal_return * 8.1 < reports[0][1]["episode_return_mean"] < env.optimal_return
    assert reports[0][1]["episode_length_mean"] == 32
    assert all(env.optimal_return / 32 > metrics["reward_mean"] > -1.024 for _, metrics in reports)
    assert np.isfinite(reports[-1][1]["train/loss"])
    assert all(isinstance(value, float) for _, metrics in reports for value in metrics.values())


def test_episodes_that_are_cut_off_are_trained_on(name, tmp_path):
    learn(make_agent(name), lambda: TimeLimit(Backlog(), 10), tmp_path, total=512)
    assert make_agent(name).policy(tmp_path)


def test_without_a_checkpoint_there_is_no_policy(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        make_agent(name).policy(tmp_path)


def test_the_configuration_names_each_argument_and_builds_the_agent(name):
    content = configuration(name)
    assert list(content) == list(inspect.signature(CLASSES[name]).parameters)
    target = f"{CLASSES[name].__module__}.{CLASSES[name].__qualname__}"
    agent = instantiate(OmegaConf.create({"_target_": target, **content}))
    assert isinstance(agent, CLASSES[name])
    assert agent.total_timesteps == content["total_timesteps"]


def test_the_default_configuration_learns(name, tmp_path):
    agent = CLASSES[name](**configuration(name))
    learn(agent, FasterInstance, tmp_path, total=6144, every=6144)
    assert share_of_optimum(FasterInstance(), agent.policy(tmp_path)) > 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_hyperparameter_may_be_nan_or_infinite(name, value):
    numbers = [key for key, default in configuration(name).items() if isinstance(default, int | float)]
    assert len(numbers) > 10
    for argument in numbers:
        with pytest.raises(ValueError, match=rf"^{argument} is {value}, it must be "):
            make_agent(name, **{argument: value})


@pytest.mark.parametrize("value", [0, -5])
@pytest.mark.parametrize(("argument", "key"), [("total", "total_timesteps"), ("every", "checkpoint_every")])
def test_a_run_of_no_length_is_refused(name, argument, key, value, tmp_path):
    with pytest.raises(ValueError, match=f"{key} is {value}, it must be a whole number from 1"):
        learn(make_agent(name), FasterInstance, tmp_path, **{argument: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_envs", 0),
        ("total_timesteps", 1.5),
        ("batch_size", True),
        ("learning_rate", 0.0),
        ("gamma", 1.1),
        ("reward_scale", float("inf")),
        ("attention_heads", 5),
        ("instance_hidden", []),
        ("head_hidden", [64, 0]),
        ("head_hidden", "64"),
    ],
)
def test_bad_hyperparameters_are_named(name, argument, value):
    with pytest.raises(ValueError, match=argument):
        make_agent(name, **{argument: value})
