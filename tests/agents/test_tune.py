"""The tuner finds a known optimum, sees no test stream, and goes on where it was killed."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from agents.tune import tune
from agents.tuning import tuned
from agents.tuning.space import Choice, Range, space_of
from agents.tuning.study import Search
from conf.build import ConfigError
from tests.agents.test_programs import TINY, configured, files, options

SPACE = {"width": Range(0.5, 64.0, log=True), "depth": Range(1, 20), "kind": Choice(["bad", "good"])}
DEFAULT = {"width": 32.0, "depth": 3, "kind": "bad"}
SEEDS = (1, 2, 3, 4, 5)


def cost(settings, seed):
    """Least, and 1 in the mean, at width 4, depth 7 and the good kind; streams are unlike, alike for all."""
    ease = np.random.default_rng(seed).uniform(0.2, 1.8)
    far = math.log(settings["width"] / 4.0) ** 2 + 0.02 * abs(settings["depth"] - 7)
    return float(ease * (1.0 + far + 0.3 * (settings["kind"] == "bad")))


def searched(path, num_trials, play=cost):
    search = Search(path, SPACE, DEFAULT, SEEDS, 0)
    while len(search.tried()) < num_trials:
        search.run(play)
    return search.tried()


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("study") / "study.journal", 30)


def test_it_finds_the_optimum_and_gives_up_what_is_behind(tried):
    assert tried[0].settings == DEFAULT
    assert tried[0].relative == 1.0
    best = min(tried, key=lambda each: each.relative if each.state == "whole" else math.inf)
    optimum = 1.0 / (1.0 + math.log(8.0) ** 2 + 0.02 * 4 + 0.3)
    assert best.relative < 1.1 * optimum
    assert best.settings["kind"] == "good"
    assert best.settings["width"] == pytest.approx(4.0, rel=0.2)
    pruned = [each for each in tried if each.state == "pruned"]
    assert len(pruned) > 8
    assert {len(each.values) for each in pruned} == {2}  # of unlike streams
    assert min(each.relative for each in pruned) > best.relative
    for each in tried:
        of_default = [cost(DEFAULT, seed) for seed in SEEDS]
        expected = sum(each.values) / sum(of_default[: len(each.values)])
        assert each.values == tuple(cost(each.settings, seed) for seed in SEEDS[: len(each.values)])
        assert each.relative == pytest.approx(expected, rel=1e-12)


def test_a_killed_search_goes_on_and_ends_the_same(tried, tmp_path):
    class KilledError(BaseException):
        pass

    played = []

    def play(settings, seed):
        if len(played) in (1, 9, 40, 41) and played[-1] is not None:
            played.append(None)
            raise KilledError
        played.append((tuple(settings.items()), seed))
        return cost(settings, seed)

    num_killed = 0
    while True:
        try:
            found = searched(tmp_path / "study.journal", 15, play)
        except KilledError:
            num_killed += 1
        else:
            break
    assert num_killed == 3
    assert found == tried[:15]
    episodes = [each for each in played if each is not None]
    assert len(episodes) == sum(len(each.values) for each in found)  # none was played twice


def test_settings_that_do_not_fit_together_are_refused_and_counted(tmp_path):
    def play(settings, seed):
        if settings["kind"] == "good":
            raise ValueError("good is not good enough")
        return cost(settings, seed)

    found = searched(tmp_path / "study.journal", 8, play)
    refused = [each for each in found if each.settings["kind"] == "good"]
    assert refused
    assert all(each.state == "refused" and each.refusal == "good is not good enough" for each in refused)
    assert all(each.state != "refused" for each in found if each not in refused)


def test_a_default_that_cannot_be_played_is_told_and_not_remembered(tmp_path):
    def play(settings, seed):
        raise ValueError("warmup_s is too long")

    for _ in range(2):
        with pytest.raises(ValueError, match="warmup_s is too long"):
            searched(tmp_path / "study.journal", 2, play)
    assert searched(tmp_path / "study.journal", 2)[0].settings == DEFAULT


def test_more_trials_go_on_from_what_is_there(tried, tmp_path):
    searched(tmp_path / "study.journal", 4)
    assert searched(tmp_path / "study.journal", 7) == tried[:7]


# --- the program ---

SCENARIO = ["+scenario=bench", "scenario.split=tune"]


def tiny(directory, *overrides):
    return configured(
        "tune",
        directory,
        *TINY,
        "workload.part=train",
        "agent=aibrix_prefix",
        "agent_name=aibrix_prefix",
        "tuned_for=tiny",
        "seeds=[1000,1003]",
        "warmup_s=0.1",
        "num_trials=4",
        *overrides,
    )


def test_what_it_writes_is_plain_and_the_same_each_time(tmp_path):
    found = [tune(tiny(tmp_path / name)) for name in ("one", "other")]
    volatile = ("study.journal",)
    assert files(tmp_path / "one", *volatile) == files(tmp_path / "other", *volatile)
    held = json.loads((tmp_path / "one" / tuned.NAME).read_text())
    assert held == found[0]
    assert held["default"] == {"imbalance": 8.0, "num_deviations": 1.0}
    assert held["num_trials"]["whole"] == 4
    trials = pd.read_parquet(tmp_path / "one" / "trials.parquet")
    best = trials.loc[trials["relative"].idxmin()]
    assert held["settings"] == {name: best[name] for name in held["default"]}
    assert held["relative"]["value"] == pytest.approx(best["relative"] - 1.0)


def test_many_searches_make_one_file_for_the_benchmark(tmp_path, monkeypatch):
    held = dict.fromkeys(tuned.KEYS) | {
        "settings": {"imbalance": 3.0, "training.rate": 0.1},
        "objective": "ttft_p99_s",
    }
    for scenario, agent in (("equal@80", "a"), ("equal@80", "b"), ("prefix_50", "a")):
        path = tmp_path / "runs" / f"{scenario}-{agent}" / tuned.NAME
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(held | {"tuned_for": scenario, "agent": agent}))
    monkeypatch.setattr("sys.argv", ["tuned", str(tmp_path / "runs"), str(tmp_path / "tuned.json")])
    tuned.main()
    settings = held["settings"]
    expected = {
        "about": {"objective": "ttft_p99_s"},
        "equal@80": {"a": settings, "b": settings},
        "prefix_50": {"a": settings},
    }
    assert json.loads((tmp_path / "tuned.json").read_text()) == expected
    path.write_text(json.dumps(held | {"tuned_for": "x", "agent": "a", "objective": "ttft_mean_s"}))
    with pytest.raises(ValueError, match=r"tuned for ttft_mean_s, others below .* for ttft_p99_s; gather"):
        tuned.load_all(tmp_path / "runs")
    path.write_text(json.dumps(held | {"tuned_for": "equal@80", "agent": "a"}))
    with pytest.raises(ValueError, match=r"a was tuned for equal@80 twice; delete one"):
        tuned.load_all(tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tuned.json: not what agents.tune wrote"):
        tuned.load_all(tmp_path)
    with pytest.raises(ValueError, match=r"there is no tuned.json below it; make one by python"):
        tuned.load_all(tmp_path / "nowhere")


def test_what_was_tuned_once_may_stand_for_other_loads_and_scenarios():
    found = {"equal@80": {"a": {"x": 1}, "b": {"x": 2}}, "scrape_1s@80": {"a": {"x": 3}}}
    scenarios = tuned.for_all_loads(found)
    assert scenarios == {"equal": {"a": {"x": 1}, "b": {"x": 2}}, "scrape_1s": {"a": {"x": 3}}}
    same = tuned.with_same(scenarios, ["scrape_1s=equal", "scrape_10s=equal"])
    assert same["scrape_1s"] == {"a": {"x": 3}, "b": {"x": 2}}
    assert same["scrape_10s"] == same["equal"] == scenarios["equal"]
    with pytest.raises(ValueError, match=r"equal@60: a was tuned at another load too"):
        tuned.for_all_loads({**found, "equal@60": {"a": {"x": 1}}})
    with pytest.raises(ValueError, match=r"--same equal: write OTHER=ONE, ONE being one of equal, scrape_1s"):
        tuned.with_same(scenarios, ["equal"])


@pytest.mark.parametrize("agent", options("space"))
def test_every_space_is_of_its_agent_and_holds_its_defaults(agent, tmp_path):
    config = configured("tune", tmp_path, f"agent={agent}")
    assert set(space_of(config)) == set(dict(flat(config.space)))


def flat(node, path=""):
    """Leaves of a space as its YAML has them."""
    for key, held in node.items():
        if {"low", "options"} & held.keys():
            yield f"{path}{key}", held
        else:
            yield from flat(held, f"{path}{key}.")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workload.part=all"], r"workload.part: 'all' holds what policies are tested on; .*part=train"),
        (["+scenario=bench"], r"scenario.split: 'test'; tune with scenario.split=tune"),
        ([*SCENARIO, "seeds=[9]"], r"seeds: \[9\] are those that policies are tested on"),
        (SCENARIO, r"warmup_s: 0.1, and the scenario's is 60.0; take that"),
        (["objective=frac_slo_met"], r"objective: 'frac_slo_met' is none of ttft_mean_s, "),
        (["num_trials=1"], r"num_trials \(1\) must be at least 2"),
        (["seeds=[3,3]"], r"seeds: \[3, 3\] must be different"),
        (["agent=random"], r"space: empty; give ranges .* or write conf/space/<agent>.yaml"),
        (["+space.imbalanc={low: 1.0, high: 2.0}"], r"space.imbalanc: .*AibrixPrefix has no such setting"),
        (
            ["space.imbalance.low=9.0"],
            r"space.imbalance: the agent's own value, 8.0, is not in Range",
        ),
        (["space.imbalance.low=0.0"], r"space.imbalance: low \(0.0\) must be below .* and above 0 with log"),
        (["+space.imbalance.step=2"], r"space.imbalance.step: .* takes no such key"),
        (["+space.x=3"], r"space.x: 3 is no range; give low and high, or options"),
        (["+space.x={options: [1]}"], r"space.x: options are \[1\], they must be plain values, at least two"),
    ],
)
def test_bad_config_is_named(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        tune(tiny(tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


def test_an_agent_with_training_of_its_own_is_trained_in_each_trial(tmp_path):
    overrides = ["agent=maskable_ppo", "agent.n_steps=16", "agent.num_envs=2", "agent.batch_size=16"]
    overrides += ["total_timesteps=32", "agent_name=maskable_ppo", "num_trials=2", "seeds=[1000]"]
    config = tiny(tmp_path, *overrides)
    config.space = OmegaConf.create({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})
    found = tune(config)
    assert len(list((tmp_path / "trained").glob("*/checkpoint.pt"))) == 2
    assert found["num_trials"] == {"whole": 2}


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'routegym\[sweeps\]'"):
        Search(tmp_path / "study.journal", SPACE, DEFAULT, SEEDS, 0)
