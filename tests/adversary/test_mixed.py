"""Environments with attacked episodes: which, how many, and that an attack there is the very one found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from adversary.attack import Attack
from adversary.feature.spoof import Spoof
from adversary.feature.threat import FeatureThreat
from adversary.mixed import AttackedRoutingEnv
from adversary.threat import Budget, Projector
from adversary.world.threat import WorldThreat
from agents.heuristics.least_in_flight import LeastInFlight
from agents.rollout import play
from envs.emulator.fleet import cluster
from envs.observation import NUM_WAITING
from envs.routing import RoutingEnv
from envs.workload import generator
from envs.world import World

FLEET = {"h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}
WORLD = WorldThreat(
    window_s=5.0, num_windows=2, budget=Budget(1.0, 2, 1), rate_factor=[0.5, 2.0], slowdown=3.0
)
SPOOF = FeatureThreat([Spoof({"num_waiting": 64.0})], Budget(max_instances=1))
THREATS = {"world": WORLD, "spoof": SPOOF}
ROWS = [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0]]


def workload():
    return generator.workload(
        num_generated=400,
        rate_per_s=8.0,
        prompt_median=2000,
        prompt_min=64,
        prompt_max=8192,
        output_median=20,
    )


@pytest.fixture
def attacks(tmp_path):
    found = [
        Attack("world", "search", "x", {"kind": "positions", "rows": ROWS}),
        Attack("spoof", "random", "", {"kind": "noise", "seed": 3}),
    ]
    for attack in found:
        attack.save(tmp_path)
    return [str(tmp_path / f"{attack.name}.json") for attack in found]


def make(attacks, frac_attacked=0.5, **options):
    settings = {"threats": THREATS, "duration_s": 10.0, "workload": workload()} | options
    settings.setdefault("cluster", cluster(FLEET, world=World()))
    return AttackedRoutingEnv(attacks, frac_attacked=frac_attacked, **settings)


def test_gymnasium_accepts_it(attacks):
    check_env(make(attacks), skip_render_check=True)


def test_the_share_of_attacked_episodes_is_as_asked_and_follows_from_the_seed(attacks):
    env = make(attacks, 0.3)
    names = [env.reset(seed=seed)[1]["attack"] for seed in range(300)]
    assert 60 <= sum(name != "" for name in names) <= 120  # 90 +- 4 standard deviations
    assert set(names) == {"", "world-search@x", "spoof-random"}
    assert names == [env.reset(seed=seed)[1]["attack"] for seed in range(300)]
    assert {make(attacks, 0.0).reset(seed=seed)[1]["attack"] for seed in range(20)} == {""}


def ledger_of(env, seed=0):
    return play(env, LeastInFlight(), seed).ledger.drop(columns="propensity")


def test_an_episode_in_peace_is_the_plain_one_cut_at_its_end(attacks):
    plain = ledger_of(RoutingEnv(cluster(FLEET, world=World()), workload()))
    calm = ledger_of(make(attacks, 0.0))
    held = plain[plain["arrived_at_s"] < 10.0]
    assert len(calm) == len(held) > 50
    assert calm["arrived_at_s"].tolist() == held["arrived_at_s"].tolist()
    assert calm["instance"].tolist() == held["instance"].tolist()


def test_an_attacked_world_is_the_one_that_was_found_and_leaves_no_trace(attacks):
    env = make(attacks[:1], 1.0)
    attacked = ledger_of(env)
    values = Projector(WORLD.knobs(2), WORLD.budget).project(
        Attack.load(Path(attacks[0])).wanted(WORLD.knobs(2), 2, 0)
    )
    assert values[:, 0].tolist() == [2.0, 2.0]
    # twice as fast throughout: the requests of twenty seconds in ten
    assert len(attacked) == pytest.approx(160, abs=45)
    assert env.cluster.world.schedule is not None
    env.frac_attacked = 0.0
    calm = ledger_of(env)
    assert env.cluster.world.schedule is None
    assert calm.equals(ledger_of(make(attacks, 0.0)))


def test_lies_reach_the_agent_but_not_the_world(attacks):
    env, plain = make(attacks[1:], 1.0), make(attacks, 0.0)
    true, _ = plain.reset(seed=0)
    seen, info = env.reset(seed=0)
    assert info["attack"] == "spoof-random"
    differences = 0
    for _ in range(40):
        differences += int((seen["instances"][:, NUM_WAITING] != true["instances"][:, NUM_WAITING]).sum() > 0)
        others = [column for column in range(seen["instances"].shape[1]) if column != NUM_WAITING]
        assert np.array_equal(seen["instances"][:, others], true["instances"][:, others])
        seen, _, _, _, _ = env.step(0)
        true, _, _, _, _ = plain.step(0)
    assert differences > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frac_attacked": 1.5}, "frac_attacked is 1.5"),
        ({"cluster": None}, "add world=quiet"),
        ({"cluster": cluster(FLEET)}, "add world=quiet"),
        ({"threats": {"world": WORLD}}, "'spoof', which is none of threats"),
        ({"duration_s": 20.0}, "lasts 10 s and duration_s is 20"),
    ],
)
def test_what_does_not_fit_is_named(attacks, options, message):
    with pytest.raises(ValueError, match=message):
        make(attacks, **options)


def test_no_attack_and_attacks_along_gradients_are_refused(tmp_path):
    with pytest.raises(ValueError, match="attacks is empty"):
        make([])
    attack = Attack("spoof", "pgd", "x", {"kind": "pgd", "num_steps": 3})
    attack.save(tmp_path)
    with pytest.raises(ValueError, match="follows the gradient of a finished victim"):
        make([str(tmp_path / f"{attack.name}.json")])
