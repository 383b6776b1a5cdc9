"""The emulator against vLLM itself, on random scenarios.

ROUTEGYM_SCENARIOS says how many there are of each mode and ROUTEGYM_SEED which.
"""

import os

import numpy as np
import pytest

from envs.live.vllm_python import NO_VLLM, vllm_python

from .comparison import difference, report, shrunk
from .emulation import emulate
from .golden import MODES
from .oracle import Oracle
from .scenario import random_scenario

NUM_SCENARIOS = int(os.environ.get("ROUTEGYM_SCENARIOS", "500"))
SEED = int(os.environ.get("ROUTEGYM_SEED", "1"))


def otherwise(version):
    """Options by which the emulator follows another version of vLLM."""
    is_later = tuple(map(int, version.split(".")[:2])) >= (0, 33)
    return {"continue_after_self_preemption": is_later}


@pytest.fixture(scope="module")
def oracle():
    python = vllm_python()
    if python is None:
        pytest.skip(NO_VLLM)
    oracle = Oracle(python)
    yield oracle
    oracle.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_step_is_vllms(oracle, mode, capsys):
    num_steps = num_preempting = 0
    for number in range(NUM_SCENARIOS):
        drawn = random_scenario(np.random.default_rng([SEED, number]), *MODES[mode])
        drawn["options"].update(otherwise(oracle.vllm_version))
        scenario, ours = emulate(drawn)
        vllms = oracle.ask(scenario)
        if difference(ours, vllms):
            pytest.fail(explained(oracle, scenario), pytrace=False)
        num_steps += vllms["num_steps"]
        num_preempting += any(preempted for _, _, preempted, *_ in vllms["rows"])
    with capsys.disabled():
        print(
            f"\n{mode}: {NUM_SCENARIOS:,} scenarios ({num_preempting:,} with preemptions), {num_steps:,}"
            f" steps, 0 differ from vLLM {oracle.vllm_version}"
        )


def explained(oracle, scenario):
    """Both rows of the smallest scenario found that differs."""

    def both(candidate):
        played, ours = emulate(candidate)
        return played, difference(ours, oracle.ask(played))

    smallest, message = both(shrunk(scenario, lambda candidate: both(candidate)[1] is not None))
    return report(smallest, message)
