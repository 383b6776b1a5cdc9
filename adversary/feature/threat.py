"""A threat model at the level of features: which perturbations, within which budget."""

from __future__ import annotations

from collections.abc import Sequence

from adversary.feature.perturbation import Perturbation
from adversary.threat import Budget, Knob, check_knobs, check_switches


class FeatureThreat:
    """What may be done to the features that a router sees.

    Args:
        perturbations: Applied in this order.
        budget: How realistic it must be; a step is a routing decision.
        epsilon: In (0, 1]: the share of each knob's distance from neutral to its bounds that may be used;
            switches stay as they are.

    Raises:
        ValueError: Nothing is perturbed, two perturbations have a knob in common, or the budget leaves
            nothing to do.
    """

    def __init__(self, perturbations: Sequence[Perturbation], budget: Budget, epsilon: float = 1.0) -> None:
        self.perturbations, self.budget, self.epsilon = tuple(perturbations), budget, epsilon
        check_knobs(self.knobs(2))
        check_switches(self.knobs(2), budget)
        for perturbation in self.perturbations:
            least = perturbation.least_instances
            if budget.max_instances is not None and budget.max_instances < least:
                raise ValueError(
                    f"max_instances is {budget.max_instances}: {perturbation.kind} does nothing below"
                    f" {least}; raise it, or give null for no limit"
                )

    @property
    def columns(self) -> frozenset[int]:
        """Columns of ``observation["instances"]`` that it may change."""
        return frozenset(int(column) for each in self.perturbations for column in each.columns)

    def knobs(self, num_instances: int) -> tuple[Knob, ...]:
        """The knobs of all perturbations, in order, in a fleet of so many."""
        return tuple(
            knob.within(self.epsilon)
            for perturbation in self.perturbations
            for knob in perturbation.knobs(num_instances)
        )
