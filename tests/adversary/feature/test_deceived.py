"""A deceived victim routes on what it is shown, in a world that is as it was."""

from __future__ import annotations

import numpy as np
import pytest

from adversary.feature.deceived import Deceived
from adversary.feature.episodes import Episodes, aligned
from adversary.feature.random_liar import RandomLiar
from adversary.feature.replayed import Replayed
from adversary.feature.scale import Scale
from adversary.feature.seen import mistakes
from adversary.feature.threat import FeatureThreat
from adversary.harm import Naive
from adversary.threat import Budget
from adversary.trace import AttackTrace
from agents.heuristics.random import Random
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.vllm_dp import VLLMDataParallel
from agents.policy import Decision
from agents.rollout import play
from envs.emulator.fleet import cluster
from envs.observation import INSTANCE_FEATURES, NUM_RUNNING
from envs.routing import RoutingEnv
from envs.workload import generator
from tests.adversary.toy_victim import FewestWaiting, toy_env, toy_threat

NOISE = FeatureThreat([Scale(0.5)], Budget(max_slope=0.5))


@pytest.fixture(scope="module")
def env():
    return toy_env(num_requests=120)


class Still:
    """Wants nothing: the middle of two-sided bounds."""

    def __init__(self, knobs):
        self.values = np.array([knob.neutral for knob in knobs])

    def reset(self, rng):
        rng.random(100)

    def choose(self, observation, now_s):
        return self.values


@pytest.mark.parametrize("rule", [Random, RoundRobin, VLLMDataParallel])
def test_without_a_lie_a_deceived_victim_does_what_it_did(env, rule):
    victim = rule()
    episodes = Episodes(env, victim)
    attacked = episodes.attacked(NOISE, Still(episodes.knobs(NOISE)), 3)
    assert attacked.rollout.ledger.equals(play(env, victim, 3).ledger)
    assert attacked.rollout.ledger.equals(episodes.clean_rollout(3).ledger)
    assert np.array_equal(attacked.losses.victim, attacked.losses.clean)


def test_losses_are_the_ttft_and_what_is_recorded_is_what_was_seen(env):
    episodes = Episodes(env, VLLMDataParallel(), RoundRobin())
    liar = RandomLiar(episodes.knobs(NOISE))
    losses, trace, rollout = episodes.attacked(NOISE, liar, 1)
    for loss, ledger in (
        (losses.victim, rollout.ledger),
        (losses.clean, play(env, VLLMDataParallel(), 1).ledger),
        (losses.reference, play(env, RoundRobin(), 1).ledger),
    ):
        assert loss.sum() == pytest.approx(ledger["ttft_s"].sum(), rel=1e-9)
    assert Naive()(losses) == pytest.approx(rollout.ledger["ttft_s"].mean(), rel=1e-9)
    assert losses.num_requests.tolist() == [1] * 120
    trace.check()
    assert trace.values.shape == (120, len(episodes.knobs(NOISE)))

    victim = episodes.deceived(NOISE, liar, keep_looks=True)
    assert play(env, victim, 1).ledger.equals(rollout.ledger)
    assert mistakes(NOISE, victim.looks.true, victim.looks.seen) == []
    column = [knob.name for knob in trace.knobs].index("scale.num_running[0]")
    true, seen = (np.array([look["instances"][0, NUM_RUNNING] for look in looks]) for looks in victim.looks)
    assert (true > 0).sum() > 20
    assert seen == pytest.approx(true * trace.values[:, column], rel=1e-6)


def test_a_recorded_attack_plays_again_to_the_byte(env, tmp_path):
    episodes = Episodes(env, FewestWaiting())
    threat = toy_threat()
    knobs = episodes.knobs(threat)
    liar = RandomLiar(knobs)
    first = episodes.attacked(threat, liar, 2)
    first.trace.save(tmp_path / "attack.parquet")
    again = episodes.attacked(threat, Replayed(AttackTrace.load(tmp_path / "attack.parquet"), knobs), 2)
    assert again.rollout.ledger.equals(first.rollout.ledger)
    assert np.array_equal(again.trace.values, first.trace.values)
    assert not first.rollout.ledger.equals(episodes.clean_rollout(2).ledger)


def test_one_attacker_deceives_several_routers():
    fleet = {"h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}
    workload = generator.workload(num_generated=60, rate_per_s=10.0, prompt_median=2000, prompt_max=4000)
    env = RoutingEnv(cluster(fleet), workload, num_routers=3)
    episodes = Episodes(env, RoundRobin())
    still = episodes.attacked(NOISE, Still(episodes.knobs(NOISE)), 0)
    assert still.rollout.ledger.equals(play(env, RoundRobin(), 0).ledger)
    assert len(still.trace.values) == 60


class Broken(FewestWaiting):
    """Gives what is no decision, at its third."""

    def __init__(self, decision):
        self.decision, self.num_decided = decision, 0

    def act(self, observation):
        self.num_decided += 1
        return self.decision if self.num_decided == 3 else super().act(observation)


NAN = np.array([np.nan, 0.0, 0.0])
FINE = np.array([1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Decision(0, FINE, NAN), "victim Broken gave NaN scores at step 2"),
        (Decision(0, NAN, np.array([0.0, -np.inf, np.inf])), "victim Broken gave NaN propensities at step 2"),
        (Decision(1, FINE, FINE), "victim Broken chose instance 1 at step 2, which is masked"),
        (Decision(7, FINE, FINE), "victim Broken chose instance 7 at step 2"),
        (Decision(-1, FINE, FINE), "victim Broken chose instance -1 at step 2"),
    ],
)
def test_what_is_no_decision_is_named(decision, message):
    threat = toy_threat()
    victim = Deceived(Broken(decision), threat, Still(threat.knobs(3)), lambda: 0.0, 3)
    victim.reset(np.random.default_rng(0))
    look = {
        "instances": np.zeros((3, len(INSTANCE_FEATURES)), np.float32),
        "request": np.zeros(5, np.float32),
        "mask": np.array([1, 0, 1], np.int8),
    }
    victim.act(look), victim.act(look)
    with pytest.raises(ValueError, match=message):
        victim.act(look)


def test_losses_of_unequal_episodes_are_aligned():
    assert aligned(np.array([1.0, 2.0, 3.0]), 2).tolist() == [1.0, 5.0]
    assert aligned(np.array([1.0, 2.0]), 3).tolist() == [1.0, 2.0, 0.0]
    assert aligned(np.zeros(0), 2).tolist() == [0.0, 0.0]
