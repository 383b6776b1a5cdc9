"""The suite: every scenario composes and is built, and no split sees another's requests."""

import itertools
import json
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from agents.benchmark import capacity, scenario
from agents.benchmark.scenario import Scenario, names, select, suite
from agents.build_env import build_env
from agents.train import train
from conf.build import ConfigError, build
from tests.agents.test_programs import configured

SPLITS = ("train", "tune", "test")
TRACES = {"mooncake", "lodestar", "azure", "weka", "servegen"}
"""Scenarios that replay files of others."""
ASKED_FOR = {
    "equal": (60, 80, 95),
    "fast_slow": (60, 80, 95),
    "lodestar": (60, 80, 95),
    "mooncake": (60, 80, 95),
    "overload": (120,),
}
"""Scenarios that are not at 80 % alone."""


@cache
def composed(name):
    return Scenario(name, 60).config("test")


def with_split(name, split):
    """Composing takes a while, so that the split is changed in what is composed."""
    config = deepcopy(composed(name))
    config.scenario.split = split
    return config


def test_the_suite_is_these():
    assert len(names()) == 22
    assert select("all") == [Scenario(name, load) for name in names() for load in ASKED_FOR.get(name, (80,))]
    assert len(select("all")) == 30


@pytest.mark.parametrize("name", names())
def test_a_scenario_composes_at_each_load_and_is_built(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    config = deepcopy(composed(name))
    config.workload.num_requests = 5
    rates = config.scenario.rates_per_s
    assert OmegaConf.to_container(rates) == capacity.rates_of(config.scenario.capacity_per_s)
    assert config.workload.rate_per_s == rates["60"]
    assert len(config.seeds) >= 10
    assert config.warmup_s == config.scenario.warmup_s
    if name in TRACES:
        with pytest.raises(ConfigError, match="workload: no trace at"):
            build_env(config)
    else:
        env = build_env(config)
        env.reset(seed=0)
        assert env.workload.num_requests == 5


@pytest.mark.parametrize("name", names())
def test_splits_have_nothing_in_common_by_construction(name):
    configs = {split: with_split(name, split) for split in SPLITS}
    seeds = configs["test"].scenario.seeds
    assert not set(seeds["tune"]) & set(seeds["test"])
    workloads = {
        split: OmegaConf.to_container(config.workload, resolve=True) for split, config in configs.items()
    }
    differing = {
        key
        for one, other in itertools.combinations(SPLITS, 2)
        for key in workloads[one]
        if workloads[one][key] != workloads[other][key]
    }
    if differing >= {"window_start_s", "window_stop_s"}:  # windows do not overlap
        spans = [(each["window_start_s"], each["window_stop_s"] or np.inf) for each in workloads.values()]
        assert differing <= {"window_start_s", "window_stop_s", "seed"}
        assert all(a[1] <= b[0] or b[1] <= a[0] for a, b in itertools.combinations(spans, 2))
        assert all(each["part"] == "all" for each in workloads.values() if "part" in each)
    elif differing == {"part"}:  # the parts of envs.workload.weka, which its own test shows to be disjoint
        assert [each["part"] for each in workloads.values()] == list(SPLITS)
    else:  # each stream is drawn from this seed and its own
        assert differing == {"seed"}
        assert len({each["seed"] for each in workloads.values()}) == 3
        assert all(each["start"] == "fresh" for each in workloads.values())


def test_a_scenario_is_an_experiment_of_training_too():
    overrides = ["experiment=bench/equal", "scenario.split=train", "scenario.load=95", "directory=x"]
    config = scenario._composed("train", overrides)
    assert config.workload.seed == config.scenario.trace_seeds.train
    assert config.workload.rate_per_s == config.scenario.rates_per_s["95"]


def test_what_the_page_trains_lies_where_it_looks_for_it(monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "routebench.md").read_text(encoding="utf-8")
    commands = [line.split() for line in re.findall(r"^    routegym-train (.*)$", page, re.M)]
    pattern = re.search(r"\+trained\.mine=(\S+)\n", page)[1]
    assert len(commands) == 2
    for overrides in commands:
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("train", [*overrides, "directory=x"], return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        name = overrides[0].removeprefix("experiment=bench/")
        assert config.hydra.run.dir == pattern.replace("SCENARIO", name)
        assert config.scenario.split == "train"


def test_nothing_is_trained_on_what_it_is_tested_on(tmp_path):
    config = configured("train", tmp_path / "run", "experiment=bench/equal", "total_timesteps=20")
    with pytest.raises(ConfigError, match=r"scenario.split: 'test' .* train with scenario.split=train"):
        train(config)
    assert not (tmp_path / "run").exists()


def requests_of(workload, seed):
    workload.reset(np.random.default_rng(seed))
    rows = set()
    while not workload.exhausted:
        request = workload.pop()
        rows.add((request.num_prompt_tokens, request.num_output_tokens, request.block_hashes.tobytes()))
    return rows


def mooncake_file(folder):
    path = folder / "mooncake" / "conversation_trace.jsonl"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(3500):
            lengths = {"input_length": int(rng.integers(500, 3000)), "output_length": number + 1}
            ids = [number * 10 + each for each in range(-(-lengths["input_length"] // 512))]
            file.write(json.dumps({"timestamp": 1000 * number, "hash_ids": ids} | lengths) + "\n")


@pytest.mark.parametrize("name", ["equal", "shift_0_50", "mooncake"])
def test_no_request_of_a_split_comes_in_another_whatever_the_seed(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    if name == "mooncake":
        mooncake_file(tmp_path)
    streams = {}
    for split in SPLITS:
        config = with_split(name, split)
        config.workload.num_requests = 150
        workload = build(config.workload, "workload")
        streams[split] = set().union(*(requests_of(workload, seed) for seed in range(6)))
        assert len(streams[split]) > 150
    for one, other in itertools.combinations(SPLITS, 2):
        assert not streams[one] & streams[other]


def test_patterns_choose_scenarios_and_loads():
    assert select("azure") == [Scenario("azure", 80)]
    assert [str(each) for each in select(["equal@95", "prefix_[13]0"])] == [
        "equal@95",
        "prefix_10@80",
        "prefix_30@80",
    ]
    assert select(["equal", "equal@60"]) == suite("equal")
    for wrong in ("eqal", "equal@high"):
        with pytest.raises(ConfigError, match=rf"scenarios: '{wrong}' fits none of azure, .*; write NAME"):
            select([wrong])
    with pytest.raises(ConfigError, match="scenarios: equal has no load 70; it has 60, 80, 95, 120"):
        Scenario("equal", 70).config("test")
    with pytest.raises(ConfigError, match="split: 'train' is none of tune, test"):
        Scenario("equal", 80).config("train")


def test_capacity_is_what_one_instance_can_do(monkeypatch):
    """Requests of one length, nothing shared: the law of step times says what an instance can do."""
    monkeypatch.setattr(capacity, "NUM_SEEDS", 1)
    original = Scenario.config

    def small(self, split, settings=None):
        even = {"prompt_median": 4000, "prompt_sigma": 0.0, "output_median": 1, "output_sigma": 0.0}
        even |= {"num_prefix_groups": 0, "num_generated": 800, "arrival_cv": 0.0}
        two = {"instances": {"h100": {"count": 2}}}
        return original(self, split, {"workload": even, "cluster": two, "scenario": {"capacity_per_s": 15.0}})

    monkeypatch.setattr(Scenario, "config", small)
    nodes = {"least": {"_target_": "agents.heuristics.least_in_flight.LeastInFlight"}}
    (measured,) = capacity.measure([Scenario("equal", 80)], nodes, 1).values()
    law = build_env(small(Scenario("equal", 80), "tune")).cluster.configs[0].profile.law
    chunk = 8192  # tokens of a full step, about two prompts
    step_s = law.overhead_s + law.token_s * chunk + law.prefill_attention_s * chunk * 2000
    assert measured.per_s == pytest.approx(2 * chunk / 4000 / step_s, rel=0.06)
    assert measured.rule == "least"
    assert measured.offered_per_s > measured.per_s


def test_rates_are_shares_of_the_capacity():
    assert capacity.rates_of(12.34) == {"60": 7.4, "80": 9.87, "95": 11.7, "120": 14.8}
