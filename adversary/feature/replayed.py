"""An attack that was recorded, once more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adversary.threat import Knob, Values, neutral
from adversary.trace import AttackTrace
from envs.observation import Observation


class Replayed:
    """Wants the values of a recorded attack, decision by decision; neutral ones after its end.

    Args:
        trace: What was recorded.
        knobs: Of the threat model that it is now played under.

    Raises:
        ValueError: The attack is not on features, or has other knobs. Their bounds may differ: the
            projector sees to them.
    """

    def __init__(self, trace: AttackTrace, knobs: Sequence[Knob]) -> None:
        if trace.level != "feature":
            raise ValueError(f"the recorded attack is at the level of {trace.level}, not of features")
        recorded, present = [knob.name for knob in trace.knobs], [knob.name for knob in knobs]
        if recorded != present:
            raise ValueError(
                f"the recorded attack has the knobs {', '.join(recorded)}, the threat model has"
                f" {', '.join(present)}: replay it with the threat model and the number of instances that it"
                " was made for"
            )
        self._values, self._neutral = trace.values, neutral(knobs)
        self._step = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Begin with the first step."""
        self._step = 0

    def choose(self, observation: Observation, now_s: float) -> Values:
        """The recorded values of this step."""
        step = self._step
        self._step += 1
        values: Values = self._values[step] if step < len(self._values) else self._neutral
        return values
