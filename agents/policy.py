"""The contract of everything that decides: heuristics, bandits, SB3 models, exported bundles.

In the emulator (``agents/rollout.py`` is this loop, with the bookkeeping)::

    policy.reset(np.random.default_rng(seed))
    observation, info = env.reset(seed=seed)
    while not done:
        decision = policy.act(observation)
        env.unwrapped.declare_propensity(decision.propensity)
        observation, reward, done, _, info = env.step(decision.instance)
        policy.observe(info["completions"])

In a router::

    policy.reset(rng)
    on request:      decision = policy.act(view.look(request, now_s)); send it to decision.instance
    on completion:   policy.observe([feedback])

The n-th ``act`` since ``reset`` is decision n of the feedback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.export.runtime import Decision
from envs.feedback import Feedback
from envs.observation import Observation
from envs.routing import RoutingEnv

__all__ = [
    "Decision",
    "Exportable",
    "Foreseeing",
    "Judgement",
    "Learner",
    "Look",
    "Policy",
    "Teachable",
    "Trainable",
    "valid_instances",
]


class Look(NamedTuple):
    """What an exported policy sees, as arrays that are traced; the instances are those that may be chosen."""

    instances: Any
    """Raw features, float32 ``[num_valid, num_instance_features]``."""
    encoded: Any
    """``envs.observation.encode`` of them and the request, float32 ``[num_valid, num_encoded]``."""
    request: Any
    """Float32 ``[num_request_features]``."""
    indices: Any
    """Which instance each row is, ascending, int64 ``[num_valid]``."""
    mask: Any
    """Bool ``[num_instances]``."""
    memory: Any
    """An int64; what it says is named by the policy's ``memory``, where it has one."""
    max_instances: int
    """The most that the exported policy will be asked about."""


class Judgement(NamedTuple):
    """What an exported policy makes of it, traced."""

    scores: Any
    """Float64 ``[num_valid]``."""
    propensities: Any
    """Float64 ``[num_valid]``, adding up to 1."""
    is_out_of_range: Any = None
    """A bool: whether it has no right to judge, having learned nothing of the kind. None: it does not say."""


class Policy(Protocol):
    """Decides which instance serves a request."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: forget the fleet's past, keep what was learned. ``rng`` is its only chance."""
        ...

    def act(self, observation: Observation) -> Decision:
        """Decide. Raises ``ValueError`` where all instances are masked or a feature is not finite."""
        ...

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Take in how earlier decisions fared."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Decisions made otherwise than by its own rule (fallback, exploration, ...), since reset."""
        ...


@runtime_checkable
class Learner(Policy, Protocol):
    """A policy that learns while it routes, and can be put down and taken up again."""

    def state(self) -> dict[str, Any]:
        """Everything it learned, in arrays and plain values; with ``load_state`` the same bytes go on."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned. Raises ``ValueError`` naming what does not fit."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """An agent that is trained beforehand, by its own loop over environments."""

    def learn(
        self,
        make_env: Callable[[int], RoutingEnv],
        seed: int,
        directory: Path,
        total_timesteps: int | None,
        checkpoint_every: int,
        progress: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        """Train on the environments of ranks 0, 1, ...; go on from a checkpoint in ``directory``.

        A run that was killed and taken up again ends in the same result as one that was not.
        """
        ...

    def policy(self, directory: Path) -> Policy:
        """What was trained there. Raises ``FileNotFoundError`` or ``ValueError`` where nothing whole is."""
        ...


@runtime_checkable
class Foreseeing(Policy, Protocol):
    """No router, but a mark for routers: it is shown the episode before it decides."""

    def foresee(self, env: RoutingEnv, seed: int) -> None:
        """Play the episode of ``seed`` as often as it likes; what is reset and decided next is that episode.

        Raises ``ValueError`` where the environment cannot be played again.
        """
        ...


@runtime_checkable
class Exportable(Policy, Protocol):
    """A policy that ``agents.export`` can turn into a bundle."""

    def export(self, look: Look) -> Judgement:
        """Decide about traced arrays as ``act`` does about real ones, exploration left out.

        Whole-array NumPy only; ``agents.export.tracing`` says what of it.
        """
        ...


@runtime_checkable
class Teachable(Learner, Protocol):
    """A learner that learns from decisions that others made, such as a router in another process."""

    def export(self, look: Look) -> Judgement:
        """See ``Exportable``."""
        ...

    def learn(self, row: NDArray[np.float32], ttft_s: float) -> bool:
        """Learn what came of sending a request to an instance.

        Args:
            row: The instance and the request as ``envs.observation.encode`` has them, ``[num_encoded]``.
            ttft_s: Its time to first token.

        Returns:
            Whether it decides otherwise from now on.
        """
        ...


def valid_instances(observation: Observation) -> NDArray[np.intp]:
    """Indices that may be chosen. Raises ``ValueError`` if there are none."""
    valid = np.flatnonzero(observation["mask"])
    if not len(valid):
        raise ValueError(
            "every instance is masked: none is healthy and takes a prompt of this length;"
            " drop such requests or add an instance that takes them"
        )
    return valid
