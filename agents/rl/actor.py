"""Where a checkpoint keeps its actor: the network that imitation trains, and that PPO goes on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from agents.rl.checkpoint import NAME, load_checkpoint
from envs.observation import SCHEMA_HASH

IMITATION, PPO = "imitation", "maskable_ppo"
"""Algorithms that train one."""
ACTOR = "mlp_extractor.actor."
"""What the names of its weights begin with, as SB3 has them in the policy of PPO."""
GAIN = 0.01
"""Of the last layer's initial weights: so little that an untrained actor chooses at random."""


def actor_of(directory: Path, algorithms: Sequence[str]) -> dict[str, Tensor]:
    """Weights of the actor of a training run, as ``ScoreNetwork.state_dict`` returned them.

    Args:
        directory: Of the run.
        algorithms: Those by which it may have been trained.

    Raises:
        FileNotFoundError: It holds no checkpoint.
        ValueError: Its checkpoint is damaged, of another algorithm or of other features.
    """
    checkpoint = load_checkpoint(directory, {"schema": SCHEMA_HASH})
    if checkpoint is None:
        raise FileNotFoundError(f"{directory / NAME} does not exist: train first")
    algorithm = checkpoint["run"]["algorithm"]
    if algorithm not in algorithms:
        raise ValueError(
            f"{directory / NAME} comes from a run with algorithm = {algorithm}, it must be"
            f" {' or '.join(algorithms)}"
        )
    weights: Mapping[str, Tensor] = checkpoint["state"]["model"]["policy"]
    return {name.removeprefix(ACTOR): weights[name] for name in weights if name.startswith(ACTOR)}
