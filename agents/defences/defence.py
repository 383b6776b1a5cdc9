"""What the defences share: a policy around a policy, which lets that see something else.

    policy = TrustCounters(Median(SmgLeastLoad()))      # the outermost looks at the observation first

A defence may be around any policy, another defence among them. Around a learner it is one too: outcomes go
through to what it is around, which learns from what it was shown, and its ``state`` holds that one's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from agents.policy import Decision, Learner, Policy, Trainable
from envs.feedback import Feedback
from envs.observation import INSTANCE_NAMES, REACHABLE, Observation

Rows = NDArray[np.float32]
Flags = NDArray[np.bool_]

GAUGES = tuple(INSTANCE_NAMES.index(name) for name in REACHABLE)
"""Columns that instances report themselves, so that one which lies can choose them."""


class Defence(ABC):
    """A policy that passes each observation on to another as it should have been.

    Args:
        policy: What it is around. In a config it may also be an agent that is trained beforehand, in whose
            place ``agents.cells.build_policy`` puts what was trained.
    """

    kind: ClassVar[str]
    """Name of the defence in its states."""
    counted: ClassVar[tuple[str, ...]]
    """Names of its counters."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.distrusted: Flags = np.zeros(0, np.bool_)
        """Instances whose reports it did not believe in the last decision, ``[max_instances]``."""
        self._counts: Counter[str] = Counter()

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode. The policy inside has the very chances that it would have without defence."""
        self.distrusted = np.zeros(0, np.bool_)
        self._counts = Counter(dict.fromkeys(self.counted, 0))
        self.forget()
        self.policy.reset(rng)

    def act(self, observation: Observation) -> Decision:
        """Let the policy decide on what the defence makes of the observation, which is left as it is."""
        self.distrusted = np.zeros(len(observation["mask"]), np.bool_)
        rows = cast(Rows, observation["instances"]).copy()
        self.mend(rows, observation["mask"].astype(np.bool_))
        return self.policy.act({**observation, "instances": rows})

    @abstractmethod
    def mend(self, rows: Rows, valid: Flags) -> None:
        """Replace, in ``rows`` ``[max_instances, num_instance_features]``, what shall not be believed.

        ``valid`` ``[max_instances]`` are the instances that may be chosen; the others' rows do not matter.
        """

    def forget(self) -> None:  # noqa: B027
        """Forget the episode's past, where the defence remembers any."""

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Let the policy inside learn how its decisions fared."""
        self.policy.observe(completions)

    def counters(self) -> Mapping[str, int]:
        """What the defence changed and the counters of what it is around, since reset; like names add up."""
        total = Counter(self._counts)
        total.update(dict(self.policy.counters()))
        return dict(total)

    def state(self) -> dict[str, Any]:
        """What the learner inside learned, and the defence's own memory.

        Raises ``ValueError`` where the policy inside learns nothing.
        """
        if not learns(self.policy):
            raise ValueError(f"{type(innermost(self)).__name__} learns nothing: there is no state to keep")
        return {
            "defence": self.kind,
            "memory": self.memory(),
            "counts": dict(self._counts),
            "policy": cast(Learner, self.policy).state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned, or the state of a learner that was trained without this defence.

        Raises ``ValueError`` where it is another defence's.
        """
        learner = cast(Learner, self.policy)
        if "defence" not in state:
            learner.load_state(state)
            return
        if state["defence"] != self.kind:
            raise ValueError(f"state: it is of the defence {state['defence']!r}, this one is {self.kind!r}")
        self.load_memory(state["memory"])
        self._counts = Counter(state["counts"])
        learner.load_state(state["policy"])

    def memory(self) -> dict[str, Any]:
        """What the defence remembers of the episode, in arrays and plain values."""
        return {}

    def load_memory(self, memory: Mapping[str, Any]) -> None:  # noqa: B027
        """Take up what ``memory`` returned."""


def innermost(agent: Any) -> Any:
    """The agent inside all defences; the agent itself where it has none."""
    while isinstance(agent, Defence):
        agent = agent.policy
    return agent


def learns(agent: Any) -> bool:
    """Whether it learns while it routes, be it inside of defences."""
    return isinstance(innermost(agent), Learner)


def is_learned(agent: Any) -> bool:
    """Whether it learns, while it routes or beforehand, be it inside of defences."""
    return isinstance(innermost(agent), Trainable | Learner)


def distrusted_by(policy: Any) -> Flags:
    """Instances that some defence of a policy did not believe in its last decision, ``[max_instances]``.

    Empty where it has no defence, or did not decide yet.
    """
    distrusted = np.zeros(0, np.bool_)
    while isinstance(policy, Defence):
        flags = policy.distrusted
        distrusted = distrusted | flags if len(distrusted) == len(flags) else flags
        policy = policy.policy
    return distrusted


def with_innermost(agent: Any, policy: Policy) -> Policy:
    """The agent's defences around a policy; the policy itself where it has none."""
    if not isinstance(agent, Defence):
        return policy
    agent.policy = with_innermost(agent.policy, policy)
    return agent
