import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from envs.observation import observation_space
from envs.toy import TICK_S, Backlog, FasterInstance, Masked

TOYS = {
    "faster": lambda: FasterInstance(),
    "faster, padded": lambda: FasterInstance(num_instances=3, max_instances=5),
    "masked": lambda: Masked(),
    "backlog": lambda: Backlog(),
    "backlog, padded": lambda: Backlog(num_instances=2, max_instances=4),
}


@pytest.fixture(params=TOYS)
def env(request):
    return TOYS[request.param]()


class ValidActions(spaces.Discrete):
    """Draws among the valid actions of an environment: others are an error there."""

    def __init__(self, env):
        super().__init__(env.action_space.n)
        self.env = env

    def sample(self, mask=None, probability=None):
        return super().sample(mask=self.env.action_masks().astype(np.int8))


def episode(env, choose, seed=0):
    observation, info = env.reset(seed=seed)
    rewards, completions, done = [], list(info["completions"]), False
    while not done:
        observation, reward, done, truncated, info = env.step(choose(observation))
        assert not truncated
        rewards.append(reward)
        completions += info["completions"]
    return rewards, completions


def test_checkers_of_gymnasium_and_sb3_pass_without_a_warning(env):
    env.action_space = ValidActions(env)
    step = env.step

    def declared_step(action):  # the checker takes two infos with a NaN for different
        env.declare_propensity(0.25)
        return step(action)

    env.step = declared_step
    check_env(env, skip_render_check=True)
    with warnings.catch_warnings():
        # Of a network that takes rows, a two-dimensional box is the convention.
        warnings.filterwarnings("ignore", message=r".*has an unconventional shape.*")
        check_env_for_sb3(env)


def test_spaces_are_those_of_the_routing_environment(env):
    assert env.observation_space == observation_space(env.max_instances)
    assert spaces.Discrete(env.max_instances) == env.action_space
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation["mask"], env.action_masks())


def test_optimal_action_attains_the_optimal_return(env):
    for seed in range(5):
        rewards, _ = episode(env, lambda _: env.optimal_action(), seed)
        assert sum(rewards) == pytest.approx(env.optimal_return, abs=1e-9)


def test_random_choice_is_far_from_the_optimum(env):
    rng = np.random.default_rng(0)
    returns = [
        sum(episode(env, lambda o: rng.choice(np.flatnonzero(o["mask"])), seed)[0]) for seed in range(50)
    ]
    assert np.mean(returns) < 1.3 * env.optimal_return
    if isinstance(env, FasterInstance):
        assert np.mean(returns) == pytest.approx(env.random_return, rel=0.05)


def test_every_decision_is_fed_back_once_with_its_propensity(env):
    def choose(_):
        env.declare_propensity(0.25)
        return env.optimal_action()

    rewards, completions = episode(env, choose)
    assert sorted(feedback.decision_id for feedback in completions) == list(range(env.num_decisions))
    assert all(feedback.propensity == 0.25 for feedback in completions)
    assert sum(rewards) == pytest.approx(-sum(feedback.ttft_s for feedback in completions), abs=1e-9)
    _, completions = episode(env, lambda _: env.optimal_action())
    assert all(np.isnan(feedback.propensity) for feedback in completions)


def test_a_masked_action_is_an_error():
    env = Masked(num_instances=3, max_instances=4)
    observation, _ = env.reset(seed=0)
    for instance in (*np.flatnonzero(observation["mask"] == 0), -1, 4):
        with pytest.raises(ValueError, match="is masked"):
            env.step(instance)


def test_masked_hides_the_fastest_instance():
    env = Masked()
    assert env.optimal_return == pytest.approx(2 * FasterInstance().optimal_return)
    env.reset(seed=0)
    assert env.action_masks().sum() == 3


def test_backlog_by_hand():
    env = Backlog(num_instances=2, num_decisions=2)
    observation, _ = env.reset(seed=0)
    cached = int(observation["instances"][:, 12].argmax())
    _, reward, _, _, info = env.step(cached)  # 2 ticks of work
    assert (reward, info["completions"]) == (pytest.approx(-TICK_S), [])
    _, reward, done, _, info = env.step(cached)  # 1 tick left, and 2 more behind it
    assert (reward, done) == (pytest.approx(-(1 + 3) * TICK_S), True)
    assert [feedback.ttft_s for feedback in info["completions"]] == pytest.approx([2 * TICK_S, 3 * TICK_S])


@pytest.mark.parametrize("num_instances", [2, 3, 4])
def test_backlog_is_solved_by_joining_the_least_work_and_not_by_following_the_prefix(num_instances):
    env = Backlog(num_instances)

    def join(observation):
        tokens, hit = observation["instances"][:, 8], observation["instances"][:, 12]
        return int((tokens - hit).argmin())

    joined, _ = episode(env, join)
    assert sum(joined) == pytest.approx(env.optimal_return)
    followed, _ = episode(env, lambda observation: int(observation["instances"][:, 12].argmax()))
    assert sum(followed) < 2.5 * env.optimal_return


@pytest.mark.parametrize(
    "arguments", [{"num_instances": 1}, {"num_instances": 3, "max_instances": 2}, {"num_decisions": 0}]
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=list(arguments)[-1]):
        FasterInstance(**arguments)


def test_toys_are_gymnasium_environments_of_equal_episodes_for_equal_seeds(env):
    assert isinstance(env, gym.Env)
    choose = lambda observation: int(np.flatnonzero(observation["mask"])[0])  # noqa: E731
    assert episode(env, choose, 3)[0] == episode(env, choose, 3)[0]
