"""Imitation: a student comes to choose as its teacher, is taken up again exactly, and PPO goes on from it."""

import shutil
from contextlib import closing

import numpy as np
import pytest
import torch

from agents.bandits.marginal_delay import MarginalDelay
from agents.bound.clairvoyant import Clairvoyant
from agents.build_env import build_env
from agents.distill.dagger import taught
from agents.export.parity import observe
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.rl.checkpoint import NAME
from agents.rl.imitation import ImitationAgent
from agents.rollout import play
from tests.agents.test_programs import TINY, configured

from .toy_agents import checkpoint_of, global_randomness, make_agent, silent

NETWORK = {"instance_hidden": [32, 32], "head_hidden": [32], "attention_heads": 0}


@pytest.fixture(scope="module")
def make_env(tmp_path_factory):
    config = configured("train", tmp_path_factory.mktemp("run"), *TINY)
    return lambda rank: build_env(config)


def make_imitation(teacher=None, **changes):
    sizes = {"total_timesteps": 200, "round_timesteps": 80, "n_epochs": 3, "batch_size": 32}
    return ImitationAgent(
        **{"teacher": teacher or LlmdTokenLoad(), "learning_rate": 3e-3, **NETWORK, **sizes, **changes}
    )


def learn(agent, make_env, directory, *, seed=0, total=None, every=80, progress=silent):
    agent.learn(make_env, seed, directory, total, every, progress)


def test_the_student_comes_to_choose_as_its_teacher(make_env, tmp_path):
    teacher = LlmdTokenLoad()
    agent = make_imitation(teacher, total_timesteps=1600, round_timesteps=400, n_epochs=20)
    curve = []
    learn(agent, make_env, tmp_path, progress=lambda step, figures: curve.append((step, figures)))
    assert [step for step, _ in curve] == list(range(40, 1601, 40))  # whole episodes
    assert [step for step, figures in curve if "loss" in figures] == [400, 800, 1200, 1600]
    # In episodes that it has not learned from, before the first round and after the third:
    agreed = [figures["frac_agreed"] for _, figures in curve]
    assert np.mean(agreed[:10]) < 0.9
    assert np.mean(agreed[-10:]) > 0.95

    policy = agent.policy(tmp_path)
    with closing(make_env(0)) as env:
        teacher.reset(np.random.default_rng(0))
        agreed = []
        for look in observe(env, policy, 10_000, 400):
            scores = teacher.act(look).scores
            agreed.append(scores[policy.act(look).instance] == scores.max())
    assert np.mean(agreed) > 0.95


def test_the_teacher_routes_the_first_round_and_the_student_the_others(make_env, tmp_path):
    agent = make_imitation()
    learn(agent, make_env, tmp_path / "first", total=80)
    learn(agent, make_env, tmp_path / "both", total=120)
    held = checkpoint_of(tmp_path / "both")
    student = agent.policy(tmp_path / "first")
    acted = (LlmdTokenLoad(), LlmdTokenLoad(), student)
    with closing(make_env(0)) as env:
        for episode, policy in enumerate(acted):
            seed = int(np.random.SeedSequence((0, episode)).generate_state(1)[0] >> 1)
            seen = np.stack([look["request"] for look in observe(env, policy, seed, 40)])
            assert held[f".state.lessons.{episode}.2"] == seen.astype(np.float64).tobytes()
            rows = [look["instances"][look["mask"] == 1] for look in observe(env, policy, seed, 40)]
            assert held[f".state.lessons.{episode}.0"] == np.concatenate(rows).astype(np.float64).tobytes()


def test_one_that_foresees_routes_all_its_episodes_and_its_plan_is_the_lesson(make_env):
    teacher = Clairvoyant({"rule": LeastInFlight()}, max_placed=120)
    with closing(make_env(0)) as env:
        ledger = play(env, teacher, 5).ledger
        lessons = taught(env, teacher, LeastInFlight(), 5)
    chosen = np.flatnonzero(lessons.choice) - lessons.starts
    np.testing.assert_array_equal(lessons.choice[lessons.choice > 0], 1.0)
    np.testing.assert_array_equal(chosen, ledger["instance"])  # none is masked in this world


def test_the_clairvoyant_is_imitated(make_env, tmp_path):
    agent = make_imitation(
        Clairvoyant({"rule": LeastInFlight()}, max_placed=40), total_timesteps=80, round_timesteps=40
    )
    learn(agent, make_env, tmp_path)
    assert agent.policy(tmp_path)


def test_same_seed_same_bytes_and_another_seed_others(make_env, tmp_path):
    for directory, seed in (("first", 0), ("second", 0), ("other", 1)):
        learn(make_imitation(MarginalDelay()), make_env, tmp_path / directory, seed=seed)
    first, second, other = (checkpoint_of(tmp_path / d) for d in ("first", "second", "other"))
    assert first == second
    assert first != other


@pytest.mark.parametrize("num_episodes", [1, 2, 3, 4])
def test_a_run_killed_anywhere_and_resumed_ends_as_if_it_had_not_been(num_episodes, make_env, tmp_path):
    def kill(step, figures):
        if step >= 40 * num_episodes:
            raise KeyboardInterrupt

    learn(make_imitation(), make_env, tmp_path / "whole")
    before = global_randomness()
    with pytest.raises(KeyboardInterrupt):
        learn(make_imitation(), make_env, tmp_path / "killed", progress=kill)
    assert (tmp_path / "killed" / NAME).exists() == (num_episodes > 1)
    learn(make_imitation(), make_env, tmp_path / "killed")
    assert global_randomness() == before
    assert checkpoint_of(tmp_path / "killed") == checkpoint_of(tmp_path / "whole")
    written_at = (tmp_path / "whole" / NAME).stat().st_mtime_ns
    learn(make_imitation(), make_env, tmp_path / "whole")
    assert (tmp_path / "whole" / NAME).stat().st_mtime_ns == written_at


def test_another_run_is_refused_on_resumption(make_env, tmp_path):
    learn(make_imitation(), make_env, tmp_path)
    with pytest.raises(ValueError, match="teacher = LlmdTokenLoad, this one has LeastInFlight"):
        learn(make_imitation(LeastInFlight()), make_env, tmp_path)
    with pytest.raises(ValueError, match=r"algorithm = imitation, it must be maskable_ppo"):
        make_agent("maskable_ppo").policy(tmp_path)
    with pytest.raises(FileNotFoundError, match="train first"):
        make_imitation().policy(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"attention_heads": 5}, "attention_heads is 5"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_imitation(**changes)


def test_a_teacher_that_must_be_trained_before_is_refused():
    with pytest.raises(ValueError, match="teacher is a MaskablePpoAgent, which must be trained before"):
        make_imitation(make_agent("maskable_ppo"))


@pytest.fixture(scope="module")
def imitated(make_env, tmp_path_factory):
    directory = tmp_path_factory.mktemp("imitated")
    learn(make_imitation(), make_env, directory)
    return directory


def warm(directory, **changes):
    return make_agent("maskable_ppo", **{**NETWORK, "warm_start": str(directory), "n_steps": 16, **changes})


def actor_bytes(directory):
    held = checkpoint_of(directory)
    return {name: held[name] for name in held if ".policy.mlp_extractor.actor." in name}


def test_ppo_begins_with_what_was_imitated_and_goes_on(imitated, make_env, tmp_path):
    """While the critic alone learns, the actor is the imitated one to the last bit."""
    for total, is_same in ((64, True), (128, False)):
        agent = warm(imitated, critic_timesteps=64)
        agent.learn(make_env, 0, tmp_path / str(total), total, 64, silent)
        assert (actor_bytes(tmp_path / str(total)) == actor_bytes(imitated)) == is_same
    held = (checkpoint_of(tmp_path / str(total)) for total in (64, 128))
    critics = [{n: v for n, v in each.items() if "policy.mlp_extractor.critic" in n} for each in held]
    assert all(critics[0][name] != critics[1][name] for name in critics[0] if name.endswith("weight"))
    again = warm(tmp_path / "128")  # PPO from PPO
    again.learn(make_env, 1, tmp_path / "again", 64, 64, silent)
    assert again.policy(tmp_path / "again")


def test_a_warm_run_is_taken_up_without_what_it_began_with(imitated, make_env, tmp_path):
    source = shutil.copytree(imitated, tmp_path / "source")
    warm(source, critic_timesteps=64).learn(make_env, 0, tmp_path / "whole", 192, 64, silent)

    def kill(step, figures):
        if step >= 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warm(source, critic_timesteps=64).learn(make_env, 0, tmp_path / "killed", 192, 64, kill)
    shutil.rmtree(source)
    warm(source, critic_timesteps=64).learn(make_env, 0, tmp_path / "killed", 192, 64, silent)
    assert checkpoint_of(tmp_path / "killed") == checkpoint_of(tmp_path / "whole")


def test_a_warm_start_that_does_not_fit_is_refused(imitated, make_env, tmp_path):
    before = torch.get_rng_state()
    for changes in ({"instance_hidden": [16, 32]}, {"attention_heads": 2}):
        with pytest.raises(
            ValueError, match=r"warm_start is .*, whose network has another shape: set instance"
        ):
            warm(imitated, **changes).learn(make_env, 0, tmp_path / "run", 64, 64, silent)
    with pytest.raises(FileNotFoundError, match="train first"):
        warm(tmp_path / "nothing").learn(make_env, 0, tmp_path / "run", 64, 64, silent)
    with pytest.raises(ValueError, match="critic_timesteps is 64, but by a vf_coef of 0"):
        warm(imitated, critic_timesteps=64, vf_coef=0.0)
    assert torch.equal(torch.get_rng_state(), before)
