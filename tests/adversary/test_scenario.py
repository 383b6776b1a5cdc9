"""What a config describes is built as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from adversary.config import register
from adversary.scenario import Scenario
from agents.benchmark.scenario import Scenario as BenchScenario
from agents.config import register as register_agents

register()
register_agents()


def scenario(directory, *overrides, experiment="robustness/tiny"):
    with initialize_config_module("conf", version_base="1.3"):
        chosen = f"experiment={experiment}"
        return Scenario(compose("robustness", [chosen, f"directory={directory}", *overrides]))


@pytest.mark.parametrize("threat", ["spoof", "world"])
def test_epsilon_narrows_the_bounds(threat, tmp_path):
    built = scenario(tmp_path)
    whole, half = (built.threat(threat, epsilon).knobs(2) for epsilon in (1.0, 0.5))
    for one, other in zip(whole, half, strict=True):
        assert other == one.within(0.5)
    already = scenario(tmp_path, f"threats.{threat}.epsilon=0.5")
    assert already.threat(threat, 0.5).knobs(2) == built.threat(threat, 0.25).knobs(2)


def test_an_episode_lasts_as_long_as_it_should_and_seeds_differ(tmp_path):
    built = scenario(tmp_path)
    arrivals = []
    for seed in (0, 1):
        env = built.env()
        env.reset(seed=seed)
        times_s = [env.request.arrived_at_s]
        done = False
        while not done:
            _, _, done, _, _ = env.step(int(np.flatnonzero(env.action_masks())[0]))
            if not done:
                times_s.append(env.request.arrived_at_s)
        assert 18.0 < max(times_s) < 20.0
        arrivals.append(times_s)
    assert arrivals[0] != arrivals[1]


@pytest.mark.parametrize("name", ["mooncake", "lodestar"])
def test_distilled_rules_are_attacked_where_they_were_distilled(name, tmp_path):
    attacked = scenario(tmp_path, experiment=f"robustness/distilled_{name}").config
    num_requests = attacked.workload.num_requests  # episodes are shorter
    bench = BenchScenario(name, 80).config("test", {"workload": {"num_requests": num_requests}})
    for key in ("env", "cluster", "workload"):
        assert attacked[key] == bench[key]
