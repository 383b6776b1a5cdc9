"""Does an exported policy decide as the one it was made of?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.export.runtime import DECISION, BundlePolicy
from agents.policy import Decision, Policy
from agents.rollout import policy_rng
from envs.observation import Observation
from envs.routing import RoutingEnv

TOLERANCE = 1e-5
"""Of scores, relative to 1 + their size. Instances whose scores differ by less are tied: single precision
need not tell them apart in the same way everywhere."""

Decide = Callable[[Observation], Decision]


@dataclass
class Parity:
    """How two ways to compute one policy compare."""

    num_observations: int = 0
    num_different: int = 0
    """Where propensities differ, and no tie explains it."""
    num_tied: int = 0
    """Where they differ among instances that are tied."""
    worst_score: float = 0.0
    """Greatest difference of scores, relative to 1 + their size; infinite where only one has any."""

    def add(self, one: Decision, other: Decision) -> None:
        """Compare two decisions on the same observation."""
        self.num_observations += 1
        self.worst_score = max(self.worst_score, _difference(one.scores, other.scores))
        if np.abs(one.propensities - other.propensities).max() > TOLERANCE:
            moved = one.scores[one.propensities != other.propensities]
            is_tie = _difference(np.full_like(moved, moved.max()), moved) <= TOLERANCE
            self.num_tied += bool(is_tie)
            self.num_different += not is_tie

    @property
    def holds(self) -> bool:
        """Whether they decide alike."""
        return self.num_different == 0 and self.worst_score <= TOLERANCE


def observe(env: RoutingEnv, policy: Policy, seed: int, num_observations: int) -> list[Observation]:
    """What a policy sees in so many decisions of its own: of the episode of ``seed`` and those after it."""
    seen: list[Observation] = []
    while len(seen) < num_observations:
        policy.reset(policy_rng(seed))
        observation, _ = env.reset(seed=seed)
        done = False
        while not done and len(seen) < num_observations:
            seen.append({name: values.copy() for name, values in observation.items()})
            decision = policy.act(observation)
            env.declare_propensity(decision.propensity)
            observation, _, done, _, _ = env.step(decision.instance)
        seed += 1
    return seen


def compare(policy: Policy, bundle: BundlePolicy, observations: Iterable[Observation]) -> Parity:
    """Compare a policy with its bundle, which is made to explore as much as it does."""
    parity, policy = Parity(), deepcopy(policy)
    policy.reset(np.random.default_rng(0))
    bundle.reset(np.random.default_rng(0))
    for observation in observations:
        bundle.exploration = float(getattr(policy, "exploration", 0.0))
        parity.add(policy.act(observation), bundle.act(observation))
    bundle.exploration = 0.0
    return parity


def compare_onnx(bundle: BundlePolicy, model: Path, observations: Iterable[Observation]) -> Parity:
    """Compare a bundle with its ONNX model, run by onnxruntime."""
    parity, decide = Parity(), onnx_decisions(bundle, model)
    bundle.reset(np.random.default_rng(0))
    for observation in observations:
        parity.add(bundle.act(observation), decide(observation))
    return parity


def onnx_decisions(bundle: BundlePolicy, model: Path) -> Decide:
    """Decide by the ONNX model of a bundle, as ``card.md`` tells others to do it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs_of = deepcopy(bundle)  # with a memory of its own
    inputs_of.reset(np.random.default_rng(0))
    names = [output.name for output in session.get_outputs()]

    def decide(observation: Observation) -> Decision:
        values = dict(zip(names, session.run(names, inputs_of.inputs(observation)), strict=True))
        prefix = ""
        if bundle.schema["range_check"] is not None and values[DECISION[2]]:
            prefix = "fallback_"
        propensities: NDArray[Any] = values[f"{prefix}propensities"]
        return Decision(int(propensities.argmax()), propensities, values[f"{prefix}scores"])

    return decide


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    finite = np.isfinite(one)
    if (finite != np.isfinite(other)).any():
        return float("inf")
    one, other = one[finite], other[finite]
    return float((np.abs(one - other) / (1.0 + np.abs(one))).max(initial=0.0))
