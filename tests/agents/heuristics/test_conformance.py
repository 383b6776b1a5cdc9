"""What every heuristic promises, asserted for each configuration in conf/agent that names one."""

import inspect
from pathlib import Path

import hydra.utils
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import agents.heuristics
import conf
from envs import observation as columns

CONFIGS = {
    path.stem: config
    for path in sorted(Path(conf.__file__).parent.glob("agent/*.yaml"))
    if str((config := OmegaConf.load(path)).get("_target_", "")).startswith("agents.heuristics.")
}
KINDS = {
    "load": {
        "random",
        "round_robin",
        "least_in_flight",
        "least_kv_cache",
        "power_of_two",
        "vllm_dp",
        "smg_least_load",
        "llumnix",
        "aibrix_load_balance",
        "aibrix_least_latency",
        "vtc",
    },
    "session": {"session_hash", "smg_prefix_hash", "sticky_least_loaded"},
    "prefix": {
        "aibrix_preble",
        "dual_map",
        "dynamo_two_tier",
        "lmetric",
        "ray_prefix",
        "slo_slack",
        "smg_cache_aware",
        "stack_load_aware",
        "stack_prefix_aware",
        "aibrix_prefix",
        "cache_aware",
        "dynamo_cost",
        "llmd_weighted",
        "llmd_token_load",
        "llmd_affinity",
    },
}
BY_ORDER = {
    "aibrix_least_latency",
    "aibrix_preble",
    "round_robin",
    "session_hash",
    "smg_prefix_hash",
    "sticky_least_loaded",
    "vtc",
}
"""Rules that depend on which row an instance is in; aibrix's two do as long as they know nothing of any."""
TIES_BY_ORDER = {
    "cache_aware",
    "least_kv_cache",
    "llumnix",
    "smg_least_load",
    "stack_load_aware",
    "vllm_dp",
}
"""Rules that do among equals only."""

every = pytest.mark.parametrize("name", CONFIGS)


def make(name, seed=0):
    policy = hydra.utils.instantiate(CONFIGS[name])
    policy.reset(np.random.default_rng(seed))
    return policy


def observations(rng, num_instances=6, coarse=False):
    """Draw a plausible observation: all values distinct, or (coarse) full of ties."""
    shape = (num_instances, len(columns.INSTANCE_FEATURES))
    scale = np.minimum(columns.INSTANCE_HIGH, 500)
    instances = (rng.integers(0, 3, shape) / 2 if coarse else rng.random(shape)) * scale
    request = np.array([900, 2, 0.5, 10, rng.integers(2**24)], np.float32)
    mask = rng.random(num_instances) < 0.8
    mask[rng.integers(num_instances)] = True
    return {"instances": instances.astype(np.float32), "request": request, "mask": mask.astype(np.int8)}


def test_every_rule_has_a_configuration_of_its_name():
    modules = {path.stem for path in Path(agents.heuristics.__file__).parent.glob("*.py")}
    assert set(CONFIGS) == modules - {"__init__", "heuristic", "window"}
    for name, config in CONFIGS.items():
        assert config["_target_"].startswith(f"agents.heuristics.{name}.")


def test_kinds():
    kinds = {kind: {name for name in CONFIGS if make(name).kind == kind} for kind in KINDS}
    assert kinds == KINDS


@every
def test_configuration_states_each_constant_and_its_default(name):
    config = OmegaConf.to_container(CONFIGS[name])
    target = hydra.utils.get_class(config.pop("_target_"))
    parameters = inspect.signature(target).parameters
    assert config == {key: parameter.default for key, parameter in parameters.items()}


@every
def test_constants_are_validated(name):
    for key, value in CONFIGS[name].items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            for bad in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=rf"^{key} is {bad}"):
                    hydra.utils.get_class(CONFIGS[name]["_target_"])(**{key: bad})


@pytest.mark.parametrize(("name", "key"), [("dynamo_cost", "block_size"), ("session_hash", "num_points")])
def test_whole_numbers_stay_whole(name, key):
    with pytest.raises(ValueError, match=f"{key} is 16.5, it must be a whole number"):
        hydra.utils.get_class(CONFIGS[name]["_target_"])(**{key: 16.5})


@every
def test_propensities_are_a_distribution_over_valid_instances(name):
    policy, rng = make(name), np.random.default_rng(1)
    for step in range(60):
        observation = observations(rng, num_instances=1 + step % 9, coarse=step % 2 == 0)
        before = {key: value.copy() for key, value in observation.items()}
        instance, propensities, scores = policy.act(observation)
        masked = observation["mask"] == 0
        assert isinstance(instance, int)
        assert propensities.dtype == scores.dtype == np.float64
        assert propensities.shape == scores.shape == masked.shape
        assert propensities.sum() == pytest.approx(1, abs=1e-12)
        assert propensities[instance] > 0
        assert (propensities >= 0).all()
        assert not propensities[masked].any()
        assert (scores[masked] == -np.inf).all()
        assert np.isfinite(scores[~masked]).all()
        for key, value in before.items():
            np.testing.assert_array_equal(observation[key], value)


@every
def test_same_rng_same_decisions(name):
    def episode(policy, seed):
        policy.reset(np.random.default_rng(seed))
        rng = np.random.default_rng(7)
        return [policy.act(observations(rng, coarse=True)).instance for _ in range(40)]

    policy = make(name)
    first = episode(policy, 3)
    assert episode(policy, 3) == episode(make(name), 3) == first


@every
def test_all_masked_is_an_error(name, observe):
    with pytest.raises(ValueError, match="every instance is masked"):
        make(name).act(observe(mask=[0, 0, 0]))


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_that_names_it(name, value, observe):
    policy = make(name)
    with pytest.raises(ValueError, match="num_waiting of instance 1"):
        policy.act(observe(num_waiting=[0, value, 0]))
    with pytest.raises(ValueError, match="arrivals_per_s is"):
        policy.act(observe(num_waiting=[0, 0], request={"arrivals_per_s": value}))
    opposed = observe(num_waiting=[np.inf, -np.inf])
    with pytest.raises(ValueError, match="num_waiting of instance 0"):
        policy.act(opposed)


@every
def test_bounds_of_the_table_are_fine(name):
    instances = np.tile(columns.INSTANCE_HIGH, (4, 1))
    observation = {"instances": instances, "request": columns.REQUEST_HIGH, "mask": np.ones(4, np.int8)}
    assert make(name).act(observation).propensities.sum() == pytest.approx(1)


@every
def test_acting_before_reset_is_an_error(name, observe):
    policy = hydra.utils.instantiate(CONFIGS[name])
    assert policy.counters() == {}
    with pytest.raises(RuntimeError, match="reset"):
        policy.act(observe(mask=[1]))


@every
def test_counters_start_over(name, observe):
    policy = make(name)
    policy.observe([])
    policy.act(observe(mask=[1, 1]))
    policy.reset(np.random.default_rng(0))
    assert policy.counters() == {}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in BY_ORDER])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), order=st.permutations(range(6)), coarse=st.booleans())
def test_choice_moves_along_with_the_rows(name, seed, order, coarse):
    observation = observations(np.random.default_rng(seed), coarse=coarse and name not in TIES_BY_ORDER)
    shuffled = {
        "instances": observation["instances"][order],
        "request": observation["request"],
        "mask": observation["mask"][order],
    }
    here, there = make(name).act(observation), make(name).act(shuffled)
    np.testing.assert_allclose(there.propensities, here.propensities[order], atol=1e-12)
    if here.propensity == 1.0:
        assert order[there.instance] == here.instance
