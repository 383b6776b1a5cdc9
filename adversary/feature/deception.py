"""A deception under way: what an attacker wants, brought into bounds and budget and done to observations."""

from __future__ import annotations

from copy import deepcopy
from itertools import accumulate, pairwise
from typing import cast

from adversary.feature.perturbation import Instances
from adversary.feature.threat import FeatureThreat
from adversary.threat import Projector, Values
from envs.observation import Observation


class Deception:
    """Makes of each true observation the one that the victim sees. Nothing gets past its projector.

    Args:
        threat: What is allowed. It is left as it is and may be shared.
        num_instances: Of the fleet; further rows of an observation are empty.
    """

    def __init__(self, threat: FeatureThreat, num_instances: int) -> None:
        self.knobs = threat.knobs(num_instances)
        self.budget = threat.budget
        self.projector = Projector(self.knobs, threat.budget)
        self._num_instances = num_instances
        self._perturbations = deepcopy(threat.perturbations)  # they remember the past
        counts = [len(perturbation.knobs(num_instances)) for perturbation in self._perturbations]
        self._parts = [slice(*ends) for ends in pairwise(accumulate(counts, initial=0))]

    def reset(self) -> None:
        """Begin an episode: nothing was disturbed for ever."""
        self.projector.reset()
        for perturbation in self._perturbations:
            perturbation.reset()

    def lie(self, observation: Observation, wanted: Values, now_s: float) -> tuple[Values, Observation]:
        """The next decision's values, as close to ``wanted`` ``[num_knobs]`` as allowed, and what is seen.

        The request, the mask and the rows of masked instances are seen as they are.
        """
        values = self.projector.step(wanted)
        true = cast(Instances, observation["instances"])
        instances = true.copy()
        fleet = instances[: self._num_instances]
        for perturbation, part in zip(self._perturbations, self._parts, strict=True):
            perturbation.apply(fleet, values[part], now_s)
        mask = observation["mask"][: self._num_instances]
        if not mask.all():
            masked = mask == 0
            fleet[masked] = true[: self._num_instances][masked]
        return values, {**observation, "instances": instances}
