"""What another policy would have done where a recorded decision was made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.ope.logged import ROUNDING, Logged
from agents.per_router import PerRouter
from agents.policy import Policy


def propensities(policy: Policy, name: str, logged: Logged, seed: int) -> NDArray[np.float64]:
    """Probability of each instance under ``policy`` at each recorded decision.

    The policy sees the observations of each episode in their order, from ``reset`` on, with a memory of its
    own per router as in ``agents.rollout.play``. It learns nothing: outcomes are those of other decisions
    than its own. What it remembers of its own decisions (round robin's turn) is as if it had made them all.

    Args:
        policy: The policy that is evaluated.
        name: Its name, for messages.
        logged: What was recorded.
        seed: Of the policy's chance, which is never that of the recording: Thompson sampling's propensities
            are random, and would else depend on what was chosen.

    Returns:
        ``[num_decisions, max_instances]``.

    Raises:
        ValueError: Its probabilities are none: they do not sum to 1, or one is not 0 where masked.
    """
    row, num_routers = 0, int(logged.router.max()) + 1
    if num_routers > 1:
        policy = PerRouter(policy, num_routers, lambda: int(logged.router[row]))
    found = np.empty_like(logged.propensities)
    for row in range(len(logged)):
        episode = int(logged.episode[row])
        if row == 0 or episode != logged.episode[row - 1]:
            policy.reset(np.random.default_rng(np.random.SeedSequence((seed, episode, _STREAM))))
        found[row] = policy.act(logged.observation(row)).propensities
    masked = np.where(logged.mask, 0.0, found)
    if not (np.all(found >= 0) and np.all(np.abs(found.sum(axis=1) - 1) <= ROUNDING) and not masked.any()):
        raise ValueError(
            f"policies.{name}: its propensities are no probabilities of the valid instances: see"
            " agents.policy.Decision"
        )
    return found


_STREAM = 0x09E
"""Keeps this chance apart from those of ``agents.rollout.policy_rng``."""
