"""A bundle decides as the policy that it was made of: by NumPy, by ONNX, in a process without ours."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.export import bundle, runtime, writing
from agents.export.parity import Parity, compare, onnx_decisions
from agents.policy import Decision
from tests.agents.export.exported import KINDS, LEARNED, export_of, seen

OBSERVATIONS = seen(600)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bundles")
    for name in KINDS:
        writing.write(directory / name, export_of(name), lambda part: "a card")
    return directory


@pytest.mark.parametrize("name", KINDS)
def test_numpy_decides_as_the_policy(name, bundles):
    parity = compare(KINDS[name](), bundle.load(bundles / name), OBSERVATIONS)
    assert parity.holds
    assert parity.num_observations == 600
    assert parity.num_tied == 0
    assert parity.worst_score < 1e-9  # the same code on the same numbers


@pytest.mark.parametrize("name", KINDS)
def test_onnx_decides_as_the_policy(name, bundles):
    policy = KINDS[name]()
    policy.reset(np.random.default_rng(0))
    if hasattr(policy, "exploration"):
        policy._epsilon = policy.min_epsilon = 0.0
    decide, parity = onnx_decisions(bundle.load(bundles / name), bundles / name / bundle.MODEL), Parity()
    for observation in OBSERVATIONS:
        parity.add(policy.act(observation), decide(observation))
    assert parity.holds


@pytest.mark.parametrize("name", sorted(set(KINDS) - set(LEARNED)))
def test_a_rule_draws_as_its_bundle_does(name, bundles):
    policy, loaded = KINDS[name](), bundle.load(bundles / name)
    policy.reset(np.random.default_rng(4))
    loaded.reset(np.random.default_rng(4))
    for observation in OBSERVATIONS[:200]:
        assert policy.act(observation).instance == loaded.act(observation).instance


@pytest.mark.parametrize("name", ["lodestar", "lodestar_any"])
def test_lodestar_falls_back_where_it_did(name, bundles):
    policy, loaded = KINDS[name](), bundle.load(bundles / name)
    policy.reset(np.random.default_rng(0))
    for observation in OBSERVATIONS:
        policy.act(observation)
        loaded.act(observation)
    counted = policy.counters()["fallback_out_of_range"]
    assert 0 < counted < len(OBSERVATIONS)
    assert loaded.counters() == {"fallback_out_of_range": counted}


def test_a_network_says_where_it_was_not_trained(bundles):
    loaded = bundle.load(bundles / "network")
    flags = [loaded.judge(observation).is_out_of_range for observation in OBSERVATIONS]
    assert any(flags)
    assert not all(flags)
    assert loaded.counters() == {}  # it decides there all the same


def test_the_fallback_is_the_heuristic(bundles):
    loaded, heuristic = bundle.load(bundles / "network"), KINDS["least_in_flight"]()
    for observation in OBSERVATIONS[:100]:
        expected, decision = heuristic.act(observation), loaded.fall_back(observation)
        np.testing.assert_array_equal(expected.scores, decision.scores)
        np.testing.assert_array_equal(expected.propensities, decision.propensities)


def test_exploration_is_spread_over_all(bundles):
    loaded, observation = bundle.load(bundles / "network"), OBSERVATIONS[1]
    greedy = loaded.act(observation)
    loaded.exploration = 0.2
    valid = observation["mask"] == 1
    expected = 0.8 * greedy.propensities + 0.2 * valid / valid.sum()
    np.testing.assert_allclose(loaded.act(observation).propensities, expected)


def test_a_foreign_process_needs_the_folder_alone(bundles, tmp_path):
    folder, observation = bundles / "lodestar", OBSERVATIONS[0]
    np.savez(tmp_path / "observation.npz", **observation)
    program = (
        "import json, sys, numpy as np, policy\n"
        "routing = policy.load('.')\n"
        f"decision = routing.act(dict(np.load({str(tmp_path / 'observation.npz')!r})))\n"
        "ours = ('agents', 'envs', 'torch', 'onnx')\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] in ours]\n"
        "print(json.dumps([decision.scores.tolist(), loaded]))\n"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    scores, loaded = json.loads(said.stdout)
    assert loaded == []
    np.testing.assert_array_equal(scores, bundle.load(folder).act(observation).scores)


def test_the_choice_is_the_first_at_which_the_running_sum_exceeds_u(bundles):
    loaded = bundle.load(bundles / "power_of_two")
    observation = next(each for each in OBSERVATIONS if each["mask"].sum() >= 4)
    counts = np.zeros(len(observation["mask"]))
    loaded.reset(np.random.default_rng(0))
    draws = np.random.default_rng(0)
    for _ in range(300):
        decision, u = loaded.act(observation), draws.random()
        assert decision.instance == int((decision.propensities.cumsum() > u).argmax())
        counts[decision.instance] += 1
    assert (counts[decision.propensities == 0.0] == 0).all()


def test_a_difference_is_found():
    parity, scores = Parity(), np.array([1.0, 2.0, -np.inf])
    first = Decision(1, np.array([0.0, 1.0, 0.0]), scores)
    other = Decision(0, np.array([1.0, 0.0, 0.0]), scores)
    parity.add(first, other)
    assert (parity.num_different, parity.num_tied, parity.holds) == (1, 0, False)
    parity = Parity()
    parity.add(first, Decision(1, first.propensities, np.array([1.0, 2.1, -np.inf])))
    assert not parity.holds
    parity = Parity()
    parity.add(first, Decision(1, first.propensities, np.array([1.0, 2.0, 3.0])))
    assert parity.worst_score == np.inf


def test_a_tie_that_rounding_breaks_is_no_difference():
    parity, scores = Parity(), np.array([2.0, 2.0 + 1e-7])
    parity.add(
        Decision(1, np.array([0.0, 1.0]), scores), Decision(0, np.array([1.0, 0.0]), np.array([2.0, 2.0]))
    )
    assert (parity.num_tied, parity.holds) == (1, True)


def test_the_runtime_in_a_bundle_is_ours(bundles):
    assert (bundles / "network" / bundle.CODE).read_bytes() == Path(runtime.__file__).read_bytes()
