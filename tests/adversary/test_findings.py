"""What is told of the cells, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from adversary.attack import Attack
from adversary.cells import CLEAN
from adversary.config import register
from adversary.findings import METRICS, Findings, _defences, cells_of, kinds, load_only
from agents.config import register as register_agents

register()
register_agents()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    with initialize_config_module("conf", version_base="1.3"):
        directory = tmp_path_factory.mktemp("x")
        return compose("robustness", ["experiment=robustness/tiny", f"directory={directory}"])


ATTACKS = [
    Attack("spoof", "random", "", {"kind": "noise", "seed": 0}),
    Attack("spoof", "search", "vllm_dp", {"kind": "linear", "parameters": []}, 1.0, [1.0]),
    Attack("world", "search", "vllm_dp", {"kind": "positions", "rows": []}, 1.0, [1.0]),
]


def rows(values):
    """(victim, attack, epsilon) -> mean TTFT of either seed."""
    table = []
    for (victim, attack, epsilon), ttft_s in values.items():
        for seed, value in zip((1, 2), ttft_s, strict=True):
            row = dict.fromkeys(METRICS, 1.0) | {"ttft_mean_s": value}
            table.append({"victim": victim, "attack": attack, "epsilon": epsilon, "seed": seed} | row)
    return pd.DataFrame(table)


VALUES = {
    ("round_robin", CLEAN, 1.0): (2.0, 2.0),
    ("least_in_flight", CLEAN, 1.0): (1.0, 1.5),
    ("vllm_dp", CLEAN, 1.0): (0.9, 1.1),
    ("vllm_dp", "spoof-random", 1.0): (1.2, 1.2),
    ("vllm_dp", "spoof-search@vllm_dp", 0.5): (1.4, 1.6),
    ("vllm_dp", "spoof-search@vllm_dp", 1.0): (2.9, 3.1),
    ("vllm_dp", "world-search@vllm_dp", 0.5): (2.0, 2.0),
    ("vllm_dp", "world-search@vllm_dp", 1.0): (6.0, 6.0),
    ("round_robin", "world-search@vllm_dp", 0.5): (3.0, 3.0),
    ("round_robin", "world-search@vllm_dp", 1.0): (4.0, 4.0),
    ("least_in_flight", "world-search@vllm_dp", 0.5): (1.0, 1.0),
    ("least_in_flight", "world-search@vllm_dp", 1.0): (2.0, 2.0),
}


def test_where_a_router_falls_behind(config):
    findings = Findings(config, ATTACKS, rows(VALUES))
    # deceived, against a reference that is not: 1.4 and 1.6 against 2 at a half, 2.9 and 3.1 at the whole
    assert findings.break_even("spoof", "vllm_dp")["round_robin"] == 1.0
    # the only other load-only rule has no curve of its own here
    assert findings.break_even("spoof", "vllm_dp")["load_only"] is None
    # in the same world: 2 against 3 at a half, 6 against 4 at the whole
    assert findings.break_even("world", "vllm_dp")["round_robin"] == 1.0
    # in peace 0.9 and 1.1 against 1 and 1.5, at a half 2 against 1
    assert findings.break_even("world", "vllm_dp")["load_only"] == 0.5
    assert findings.break_even("spoof", "round_robin") == {"round_robin": None, "load_only": None}


def test_what_may_be_chance_is_not_called_behind(config):
    table = rows(VALUES)
    attacked = (table["victim"] == "vllm_dp") & (table["attack"] == "world-search@vllm_dp")
    table.loc[attacked & (table["epsilon"] == 1.0), "ttft_mean_s"] = [3.9, 8.0]  # against 4 and 4
    findings = Findings(config, ATTACKS, table)
    assert findings.relative("vllm_dp", "world-search@vllm_dp")["value"] > 0.4
    assert not findings.is_behind("vllm_dp", "world-search@vllm_dp")
    assert findings.break_even("world", "vllm_dp")["round_robin"] is None


def test_nobody_served_is_the_worst_that_there_is(config):
    values = VALUES | {("round_robin", "spoof-random", 1.0): (2.0, 2.0)}
    for order in (ATTACKS, ATTACKS[::-1]):
        for name in ("spoof-random", "spoof-search@vllm_dp"):
            table = rows(values)
            at = (table["victim"] == "vllm_dp") & (table["attack"] == name) & (table["epsilon"] == 1.0)
            table.loc[at, "ttft_mean_s"] = np.nan
            findings = Findings(config, order, table)
            assert findings.worst("vllm_dp", "feature") == name
            assert findings.is_behind("vllm_dp", name)
    table = rows(values)
    table.loc[table["attack"] == "world-search@vllm_dp", "ttft_mean_s"] = np.nan
    findings = Findings(config, ATTACKS, table)
    assert findings.worst("vllm_dp", "world") == "world-search@vllm_dp"
    assert not findings.is_behind("vllm_dp", "world-search@vllm_dp")  # nor did the reference serve anybody


def test_defences_are_told_in_seconds_and_compared_under_the_same_attack(config):
    values = VALUES | {("least_in_flight", "spoof-search@vllm_dp", 1.0): (1.5, 1.5)}
    plain = OmegaConf.to_container(config) | {"defended": {"vllm_dp": ["least_in_flight"]}}
    with_defence = OmegaConf.create(plain)
    [row] = _defences(Findings(with_defence, ATTACKS[:2], rows(values)))
    assert (row["victim"], row["defence"], row["attack"]) == (
        "vllm_dp",
        "least_in_flight",
        "spoof-search@vllm_dp",
    )
    assert row["without"]["value"] == pytest.approx(3.0)
    assert row["with"]["value"] == pytest.approx(1.5)
    assert row["change"]["value"] == pytest.approx(-0.5)
    assert row["clean_change"]["value"] == pytest.approx(0.25)


def test_the_worst_attack_is_by_the_mean_on_features_and_beyond_the_reference_on_worlds(config):
    findings = Findings(config, ATTACKS, rows(VALUES))
    assert findings.worst("vllm_dp", "feature") == "spoof-search@vllm_dp"
    assert findings.worst("vllm_dp", "world") == "world-search@vllm_dp"
    assert findings.worst("round_robin", "feature") is None
    assert findings.degradation("vllm_dp", "spoof-search@vllm_dp")["value"] == pytest.approx(2.0)
    assert findings.relative("vllm_dp", "world-search@vllm_dp")["value"] == pytest.approx(0.5)


def test_goodput_is_told_as_what_is_lost(config):
    table = rows(VALUES)
    attacked = (table["victim"] == "vllm_dp") & (table["attack"] == "spoof-random")
    table.loc[attacked, "goodput_per_s"] = [0.5, 0.7]
    lost = Findings(config, ATTACKS, table).degradation("vllm_dp", "spoof-random", "goodput_per_s")
    assert lost["value"] == pytest.approx(0.4)
    assert lost["low"] <= 0.4 <= lost["high"]


def test_every_victim_is_played_where_it_must_be(config):
    cells = {(cell.victim, cell.attack): cell.epsilons for cell in cells_of(config, ATTACKS)}
    victims = list(config.policies)
    assert {victim for victim, attack in cells if attack == CLEAN} == set(victims)
    assert {victim for victim, attack in cells if attack == "spoof-random"} == set(victims)
    assert cells["vllm_dp", "spoof-search@vllm_dp"] == (0.5, 1.0)
    assert cells["least_in_flight", "spoof-search@vllm_dp"] == (1.0,)  # transfer
    assert cells["least_in_flight", "world-search@vllm_dp"] == (0.5, 1.0)  # a yardstick in the same world


def test_kinds(config):
    assert kinds(config) == {"round_robin": "load", "least_in_flight": "load", "vllm_dp": "load"}
    assert load_only(config) == ["least_in_flight", "vllm_dp"]


def test_no_number_is_told_as_none(config):
    table = rows(VALUES)
    table.loc[table["victim"] == "vllm_dp", "ttft_p99_s"] = np.nan
    told = Findings(config, ATTACKS, table).estimate("vllm_dp", CLEAN, "ttft_p99_s")
    assert told == {"value": None, "low": None, "high": None}
