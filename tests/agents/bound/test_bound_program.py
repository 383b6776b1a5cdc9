import pytest
from hydra import compose, initialize_config_module

from agents import cells
from agents.bound.__main__ import brackets, table
from agents.bound.clairvoyant import Bracket
from agents.cells import Cell
from agents.config import register
from conf.build import ConfigError

register()
TINY = (
    "cluster=tiny",
    "workload.num_generated=60",
    "workload.num_requests=30",
    "workload.start=random",
    "workload.rate_per_s=20",
    "workload.max_model_len=2000",
    "workload.prompt_median=300",
    "workload.prompt_min=1",
    "workload.prompt_max=1500",
    "workload.output_median=20",
    "workload.output_max=100",
    "seeds=[0,1]",
    "num_workers=1",
    "reference=llmd_token_load",
    "+agent@policies.llmd_token_load=llmd_token_load",
)
CLAIRVOYANT = "+agent@policies.bound=clairvoyant"
RULES = ("llmd_token_load", "lmetric", "marginal_delay")
"""Those that it begins with."""


def configured(*overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose("evaluate", [*TINY, *overrides, "directory=unused"])


def test_it_is_evaluated_like_any_policy_and_bracketed(tmp_path):
    also = [f"+agent@policies.{name}={name}" for name in RULES[1:]]
    config = configured(CLAIRVOYANT, "policies.bound.max_placed=200", *also)
    cells.run(config, tmp_path)
    found = brackets(config)["bound"]
    for seed, bracket in zip((0, 1), found, strict=True):
        by_rule = min(cells.read(tmp_path, Cell(name, seed))[0]["ttft_s"].mean() for name in RULES)
        ledger, side = cells.read(tmp_path, Cell("bound", seed))
        assert bracket.floor_s < bracket.found_s < bracket.rule_s
        assert (ledger["ttft_s"].mean(), by_rule) == pytest.approx(bracket[1:])
        assert side["counters"]["fallback_rule"] == 0
    mean = sum(bracket.found_s for bracket in found) / 2
    assert f"{mean:.3f}" in table({"bound": found})


def test_one_seed_has_no_interval():
    row = table({"bound": [Bracket(1.0, 2.0, 4.0)]}).splitlines()[-1]
    assert [each.strip() for each in row.strip("|").split("|")] == [
        "bound",
        "1.000",
        "2.000",
        "4.000",
        "50.0%",
    ]


def test_without_a_clairvoyant_there_is_nothing_to_bracket():
    with pytest.raises(ConfigError, match="none is a clairvoyant"):
        brackets(configured())
