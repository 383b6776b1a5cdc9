"""Attacks that follow the victim's gradient: FGSM (Goodfellow et al. 2014) and PGD (Madry et al. 2017).

At each decision they maximise the expected true cost of the victim's choice, sum_i softmax(scores / T)_i
cost_i, over the values that bounds and budget allow now: through the perturbation in raw units, the encoder,
and the victim's scores. Greedy: what a lie does to later decisions they do not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adversary.feature.differentiable import scores_of
from adversary.feature.perturbation import Pointwise
from adversary.feature.threat import FeatureThreat
from adversary.threat import Projector, Values, neutral
from agents.policy import Policy
from envs.observation import (
    INSTANCE_HIGH,
    INSTANCE_LOW,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_UNCACHED_TOKENS,
    PREFILL_TOKENS_PER_S,
    Observation,
)

MAX_SETS = 64
"""Choices of the disturbed instances that are tried at once."""
Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of values ``[batch, num_knobs]``: the expected cost, and that of the instance of the highest score."""


def wait_s(observation: Observation) -> NDArray[np.float64]:
    """Seconds until each instance would have prefilled all that waits there and this request.

    By what the router counts itself, ``[max_instances]``; 0 where the speed is not known.
    """
    fleet = observation["instances"].astype(np.float64)
    num_tokens = fleet[:, NUM_IN_FLIGHT_UNCACHED_TOKENS] + fleet[:, NUM_UNCACHED_TOKENS]
    speed = fleet[:, PREFILL_TOKENS_PER_S]
    waits: NDArray[np.float64] = np.where(speed > 0.0, num_tokens / np.maximum(speed, 1e-9), 0.0)
    return waits


class Pgd:
    """Projected gradient ascent by signs, from the values of the last decision and from both ends.

    Of all values on the way those are taken by which the victim's choice, and its neighbourhood, cost most.
    Where fewer instances may be disturbed than there are, every choice of them is tried; where those are more
    than ``MAX_SETS``, each instance by itself, then each beside the best, and so on. Where all instances cost
    the same, the last values are kept. Some milliseconds a decision, on one thread of torch.

    Args:
        policy: The victim, or another policy with a gradient, whose lies may deceive the victim too.
        threat: What is allowed; its perturbations must have a gradient (scale, shift, spoof).
        num_instances: Of the fleet.
        num_steps: Of the ascent.
        step_share: Length of a step as a share of what each knob may be turned by now.
        temperature: T, in standard deviations of the scores over the valid instances.
        cost: True costs of the instances, ``[max_instances]``.

    Raises:
        ValueError: The policy or a perturbation has no gradient.
    """

    def __init__(
        self,
        policy: Policy,
        threat: FeatureThreat,
        num_instances: int,
        num_steps: int = 8,
        step_share: float = 0.25,
        temperature: float = 0.5,
        cost: Callable[[Observation], NDArray[np.float64]] = wait_s,
    ) -> None:
        if num_steps < 1 or not 0.0 < step_share <= 1.0 or not temperature > 0.0:
            raise ValueError(
                f"num_steps is {num_steps}, step_share {step_share} and temperature {temperature}: they must"
                " be at least 1, in (0, 1] and above 0"
            )
        self._perturbations: list[Pointwise] = []
        for perturbation in threat.perturbations:
            if not isinstance(perturbation, Pointwise):
                raise ValueError(
                    f"{perturbation.kind} has no gradient to follow: use search or rl, or a threat of scale,"
                    " shift or spoof alone"
                )
            self._perturbations.append(perturbation)
        self._scores = scores_of(policy)
        self._knobs = threat.knobs(num_instances)
        self._num_instances = num_instances
        self._num_steps, self._step_share, self._temperature = num_steps, step_share, temperature
        self._cost = cost
        self._from_ends = num_steps > 1
        self._most = threat.budget.max_instances
        self._neutral = neutral(self._knobs)
        self._instance = np.array([knob.instance for knob in self._knobs])
        self._projector = Projector(self._knobs, threat.budget)  # says what the true one makes of its wishes
        self._columns = [torch.from_numpy(each.columns) for each in self._perturbations]
        self._bounds = [
            (torch.from_numpy(INSTANCE_LOW[each.columns]), torch.from_numpy(INSTANCE_HIGH[each.columns]))
            for each in self._perturbations
        ]

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; nothing is left to chance."""
        self._projector.reset()

    def choose(self, observation: Observation, now_s: float) -> Values:
        """The values that make the victim's choice the most costly, as far as its gradient tells."""
        valid = np.flatnonzero(observation["mask"][: self._num_instances])
        costs = self._cost(observation)[: self._num_instances]
        wanted = self._projector.values
        if len(valid) > 1 and np.ptp(costs[valid]) > 0.0:
            low, high = self._projector.reach()
            objective = self._objective(observation, costs)
            wanted = self._best(objective, low, high, valid.tolist())
        self._projector.step(wanted)
        return wanted

    def _best(self, objective: Objective, low: Values, high: Values, valid: Sequence[int]) -> Values:
        """Ascend, for one choice of the disturbed instances after the other."""
        if self._most is None or self._most >= len(valid):
            found, _ = self._ascend(objective, low[None], high[None])
            return np.asarray(found[0])
        still = np.clip(self._neutral, low, high)  # not neutral where a knob cannot yet be let go
        disturbed = set(self._instance[(still != self._neutral) & (self._instance >= 0)].tolist())
        while True:
            others = [each for each in valid if each not in disturbed]
            room = self._most - len(disturbed)
            size = room if comb(len(others), room) <= MAX_SETS else 1
            sets = [disturbed.union(chosen) for chosen in combinations(others, size)]
            free = np.array([np.isin(self._instance, [-1, *chosen]) for chosen in sets])
            found, values = self._ascend(objective, np.where(free, low, still), np.where(free, high, still))
            best = int(values.argmax())
            disturbed = sets[best]
            if len(disturbed) >= self._most:
                return np.asarray(found[best])

    def _ascend(self, objective: Objective, low: Values, high: Values) -> tuple[Values, NDArray[np.float64]]:
        """Best values on the way within the bounds, all ``[batch, num_knobs]``, and what they are worth."""
        last = np.clip(self._projector.values, low, high)
        starts = np.stack([last, low, high] if self._from_ends else [last])
        num_starts = len(starts)
        lowest, highest = (torch.from_numpy(np.tile(bound, (num_starts, 1))) for bound in (low, high))
        stride = self._step_share * (highest - lowest)
        values = torch.from_numpy(np.concatenate(starts))
        best, worth = values, torch.full((len(values),), -torch.inf, dtype=torch.float64)
        for step in range(self._num_steps + 1):
            values = values.detach().requires_grad_(step < self._num_steps)
            expected, chosen = objective(values)
            reached = (expected + chosen).detach()
            best = torch.where((reached > worth)[:, None], values, best).detach()
            worth = torch.maximum(reached, worth)
            if step < self._num_steps:
                [gradient] = torch.autograd.grad(expected.sum(), values)
                values = torch.minimum(torch.maximum(values + stride * gradient.sign(), lowest), highest)
        worths = worth.numpy().reshape(num_starts, len(low))
        first, places = worths.argmax(axis=0), np.arange(len(low))
        return best.numpy().reshape(num_starts, *low.shape)[first, places], worths[first, places]

    def _objective(self, observation: Observation, costs: NDArray[np.float64]) -> Objective:
        """What values cost at this decision."""
        rows = slice(self._num_instances)
        true = torch.from_numpy(observation["instances"][rows].astype(np.float32))
        request = torch.from_numpy(observation["request"].astype(np.float32))
        mask = torch.from_numpy(observation["mask"][rows] != 0)
        cost = torch.from_numpy(costs)

        def cost_of(values: Tensor) -> tuple[Tensor, Tensor]:
            scores = self._scores(self._seen(true, values), request, mask).double()
            valid = scores[:, mask]
            spread = valid.std(dim=1, keepdim=True, correction=0).detach().clamp(min=1e-9)
            shares = torch.softmax(valid / (self._temperature * spread), dim=1)
            return shares @ cost[mask], cost[mask][valid.argmax(dim=1)]

        return cost_of

    def _seen(self, true: Tensor, values: Tensor) -> Tensor:
        """What is seen of the true instances, ``[batch, num_instances, num_instance_features]``."""
        seen = true.expand(len(values), -1, -1)
        begin = 0
        pairs = zip(self._perturbations, self._columns, self._bounds, strict=True)
        for perturbation, columns, (low, high) in pairs:
            present = seen[:, :, columns]
            end = begin + present[0].numel()
            changed = perturbation.change(present, values[:, begin:end].reshape(present.shape))
            changed = torch.minimum(torch.maximum(changed.float(), low), high)
            seen = seen.index_copy(2, columns, changed)
            begin = end
        return seen


class Fgsm(Pgd):
    """One step from the values of the last decision, as far as each knob may be turned."""

    def __init__(
        self,
        policy: Policy,
        threat: FeatureThreat,
        num_instances: int,
        temperature: float = 0.5,
        cost: Callable[[Observation], NDArray[np.float64]] = wait_s,
    ) -> None:
        super().__init__(policy, threat, num_instances, 1, 1.0, temperature, cost)
