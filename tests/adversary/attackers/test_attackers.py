"""Attackers are real: against a victim with a known weakness each finds nearly all of the harm there is."""

from __future__ import annotations

import pytest
import torch

from adversary.attack import Attack
from adversary.attackers.gradient import FgsmAttacker, PgdAttacker
from adversary.attackers.random import Random, WorstOfRandom
from adversary.attackers.rl import Rl
from adversary.attackers.sac import Sac
from adversary.attackers.search import Search
from adversary.feature.episodes import Episodes
from adversary.game import FeatureGame, WorldGame
from adversary.harm import Naive, Relative
from adversary.threat import Budget
from adversary.world.threat import WorldThreat
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.round_robin import RoundRobin
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.workload import generator
from envs.world import World
from tests.adversary.toy_victim import AlwaysFirst, FewestWaiting, toy_env, toy_threat

SEED = 3


@pytest.fixture(autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def toy_game(victim=None):
    return FeatureGame(toy_env, victim or FewestWaiting(), RoundRobin(), toy_threat(), Naive(), SEED)


def mean_ttft_s(policy):
    return Episodes(toy_env(), policy).clean(SEED).sum() / 300


@pytest.mark.parametrize(
    "attacker", [PgdAttacker(), FgsmAttacker(), Search(40), Rl(30)], ids=["pgd", "fgsm", "search", "rl"]
)
def test_attackers_find_nine_tenths_of_the_known_worst_case(attacker, tmp_path):
    clean_s, worst_s = mean_ttft_s(FewestWaiting()), mean_ttft_s(AlwaysFirst())
    game = toy_game()
    result = attacker.find(game, 0, tmp_path / "model.zip")
    assert result.harm - clean_s >= 0.9 * (worst_s - clean_s)
    # and again, from what was written down
    attack = Attack("toy", "x", "victim", result.how, result.harm, list(result.curve))
    attack.save(tmp_path)
    held = Attack.load(tmp_path / f"{attack.name}.json")
    liar = held.liar(toy_threat(), 3, lambda name: FewestWaiting(), tmp_path)
    again = Naive()(Episodes(toy_env(), FewestWaiting()).attacked(toy_threat(), liar, SEED).losses)
    assert again - clean_s >= 0.9 * (worst_s - clean_s)


def test_chance_finds_little_of_it(tmp_path):
    clean_s, worst_s = mean_ttft_s(FewestWaiting()), mean_ttft_s(AlwaysFirst())
    result = WorstOfRandom(10).find(toy_game(), 0, tmp_path / "model.zip")
    assert result.harm - clean_s < 0.5 * (worst_s - clean_s)
    assert len(result.curve) == 10


def test_a_victim_without_a_gradient_is_told():
    game = toy_game(LeastInFlight())
    assert "LeastInFlight" in PgdAttacker().unfit(game)
    assert PgdAttacker().unfit(toy_game()) == ""
    assert "no gradient" in PgdAttacker().unfit(world_game(LeastInFlight()))


def make_env():
    fleet = {"h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}
    workload = generator.workload(
        num_generated=400,
        rate_per_s=8.0,
        prompt_median=3000,
        prompt_min=64,
        prompt_max=16384,
        output_median=50,
    )
    return RoutingEnv(cluster(fleet, world=World()), workload)


THREAT = WorldThreat(
    window_s=5.0,
    num_windows=4,
    budget=Budget(0.5, 2, 1),
    rate_factor=[0.5, 1.5],
    slowdown=3.0,
    scrape_lag_s=5.0,
)


def world_game(victim):
    return WorldGame(make_env, victim, RoundRobin(), THREAT, Relative(), SEED)


def test_attacks_on_the_world_are_played_again_as_they_were_found(tmp_path):
    game = world_game(LeastInFlight())
    assert Random().find(game, 5, tmp_path / "x.zip").how == {"kind": "noise", "seed": 5}
    for attacker in (WorstOfRandom(6), Search(12, num_knots=2), Rl(8, episodes_per_update=2)):
        result = attacker.find(game, 0, tmp_path / "x.zip")
        assert len(result.curve) == attacker.num_evaluations
        assert list(result.curve) == sorted(result.curve)
        attack = Attack("world", "x", "victim", result.how, result.harm, list(result.curve))
        again = game.harm_of(attack.wanted(game.knobs, game.num_steps, SEED))
        assert again == pytest.approx(result.harm, rel=1e-6)
    assert not (tmp_path / "x.zip").exists()


def test_sac_learns_to_turn_the_world_and_its_liar_is_carried_out_again(tmp_path):
    by_chance = WorstOfRandom(40).find(world_game(LeastInFlight()), 0, tmp_path / "x.zip")
    assert Sac(40).find(world_game(LeastInFlight()), 0, tmp_path / "x.zip").harm > by_chance.harm
    result = Sac(3, episodes_per_update=1).find(toy_game(), 0, tmp_path / "model.zip")
    attack = Attack("toy", "sac", "victim", result.how, result.harm)
    liar = attack.liar(toy_threat(), 3, lambda name: FewestWaiting(), tmp_path)
    again = Naive()(Episodes(toy_env(), FewestWaiting()).attacked(toy_threat(), liar, SEED).losses)
    assert again == pytest.approx(result.harm)


@pytest.mark.parametrize("attacker", [WorstOfRandom(4), Search(6), Rl(4, episodes_per_update=2), Sac(6, 2)])
def test_the_same_seed_finds_the_same_attack(attacker, tmp_path):
    one, other = (attacker.find(world_game(LeastInFlight()), 1, tmp_path / "x.zip") for _ in range(2))
    assert one == other


def test_what_is_no_attack_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"threat": "x"}')
    with pytest.raises(ValueError, match=r"a.json: not an attack"):
        Attack.load(path)
    path.write_text('{"threat": "x", "attacker": "y", "target": "", "how": {"kind": "spell"}}')
    with pytest.raises(ValueError, match="its kind is 'spell'"):
        Attack.load(path)
    path.write_text('{"threat": "x", "attacker": "y", "target": "", "how": {"kind": "linear"}}')
    with pytest.raises(ValueError, match="of kind linear without parameters"):
        Attack.load(path)
    attack = Attack("world", "x", "v", {"kind": "positions", "rows": [[0.0]]})
    with pytest.raises(
        ValueError, match=r"positions of shape \(1, 1\), the threat model 4 windows and 5 knobs"
    ):
        attack.wanted(THREAT.knobs(2), 4, 0)
    (tmp_path / "cut.zip").write_bytes(b"PK")
    for how, why in (
        ({"kind": "linear", "parameters": [1.0]}, r"parameters have shape \(1,\)"),
        ({"kind": "model", "file": "none.zip"}, "none.zip"),
        ({"kind": "model", "file": "cut.zip"}, "zip"),
    ):
        attack = Attack("toy", "x", "v", how)
        with pytest.raises(
            ValueError, match=rf"toy-x@v cannot be carried out \(.*{why}.*; delete toy-x@v.json"
        ):
            attack.liar(toy_threat(), 3, lambda name: FewestWaiting(), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WorstOfRandom(0), "num_evaluations is 0"),
        (lambda: Rl(0), "num_evaluations is 0"),
        (lambda: Search(5, spread=0.0), "spread is 0"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
