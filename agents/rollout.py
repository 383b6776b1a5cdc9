"""One policy routes one request stream; what came of every request is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from agents.policy import Policy
from envs.feedback import Feedback
from envs.routing import RoutingEnv

LEDGER_COLUMNS = (
    "decision_id",
    "instance",
    "propensity",
    "tenant",
    "arrived_at_s",
    "num_prompt_tokens",
    "num_output_tokens",
    "num_cached_tokens",
    "num_preemptions",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "slo_met",
    "failure",
)
"""Columns of a ledger, one row per request in the order of decisions; times in seconds."""


@dataclass(frozen=True)
class Rollout:
    """An episode's outcome."""

    ledger: pd.DataFrame
    """``LEDGER_COLUMNS``."""
    counters: Mapping[str, int]
    """The policy's own: fallbacks, exploration."""
    decision_s: np.ndarray[Any, np.dtype[np.float64]]
    """Time that each decision took on this machine, ``[num_requests]``."""
    amounts: Mapping[str, float]
    """Sum of each reward term over the episode, unweighted."""


def policy_rng(seed: int) -> np.random.Generator:
    """A policy's own chance in the episode of this seed: not the workload's, and alike for all policies."""
    return np.random.default_rng(np.random.SeedSequence((seed, 1)))


def play(
    env: RoutingEnv, policy: Policy, seed: int, on_decision: Callable[[int], None] | None = None
) -> Rollout:
    """Let ``policy`` route the stream of ``seed`` to its end.

    ``on_decision`` is called with the number of decisions made, after each.
    """
    policy.reset(policy_rng(seed))
    observation, _ = env.reset(seed=seed)
    outcomes: list[Feedback] = []
    decision_s: list[float] = []
    amounts: dict[str, float] = {}
    done = False
    while not done:
        began_s = perf_counter()
        decision = policy.act(observation)
        decision_s.append(perf_counter() - began_s)
        env.declare_propensity(decision.propensity)
        observation, _, done, _, info = env.step(decision.instance)
        policy.observe(info["completions"])
        outcomes.extend(info["completions"])
        for name, amount in info["reward"].items():
            amounts[name] = amounts.get(name, 0.0) + amount
        if on_decision is not None:
            on_decision(len(decision_s))
    ledger = pd.DataFrame.from_records(outcomes, columns=list(Feedback._fields))
    ledger = ledger.sort_values("decision_id", ignore_index=True)[list(LEDGER_COLUMNS)]
    return Rollout(ledger, dict(policy.counters()), np.array(decision_s), amounts)
