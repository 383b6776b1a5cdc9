"""All plugs at once, on observations of every kind; ``tests.agents.plugs.decide_alike`` does it at length."""

import numpy as np
import pytest

from agents.export import writing
from tests.agents.export.exported import export_of
from tests.agents.heuristics.test_conformance import observations
from tests.agents.plugs.decide_alike import compare

POLICIES = ["network", "linucb", "dynamo_cost", "llmd_affinity", "least_in_flight", "random"]


@pytest.mark.parametrize("name", POLICIES)
def test_every_plug_chooses_as_the_policy(name, tmp_path):
    rng, export = np.random.default_rng(0), export_of(name)
    seen = [observations(rng, 6, coarse=number % 2 == 0) for number in range(200)]
    writing.write(tmp_path / "bundle", export, lambda part: "a card")
    found = compare(export.policy, tmp_path / "bundle", seen)
    assert found.keys() == {
        "ray_serve",
        "production_stack",
        "litellm_strategy",
        "smg_header",
        "llmd_predictor",
    }
    for plug, (parity, num_others) in found.items():
        assert parity.num_observations == 200, plug
        assert (num_others, parity.num_different) == (0, 0), plug
        assert parity.worst_score <= 1e-5, plug
