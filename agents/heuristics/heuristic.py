"""What the hand-written routing rules share: look at the valid rows, price each, take a cheapest.

A rule is a class with ``costs``: one number per valid instance, the lower the better. Ties are broken
uniformly at random; a router that takes the first of equals says so by ``first_of_equals``. ``costs`` and
``chances`` are whole-array NumPy without ``if`` on what was observed: ``agents.export`` traces them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from agents.policy import Decision, Judgement, Look, valid_instances
from envs.feedback import Feedback
from envs.observation import Observation, check_finite

Array: TypeAlias = NDArray[np.float64]
Raw: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = Literal["load", "session", "prefix"]
"""What a rule goes by: load alone, the session's identity, or what is cached where."""
Memory: TypeAlias = Literal["none", "turn", "session", "own"]
"""What a rule goes by besides the observation: nothing; how many decisions were made among the same instances
before; where the request's session stands on a hash ring; or what it keeps itself of earlier decisions and of
their outcomes, which no bundle does, so that such a rule cannot be exported."""


class Candidates(NamedTuple):
    """The instances that may be chosen, and the request."""

    instances: Array
    """Raw features, ``[num_valid, num_instance_features]``."""
    request: Raw
    """``[num_request_features]``."""
    indices: NDArray[np.intp]
    """Which instance each row is, ascending, ``[num_valid]``."""
    memory: int = 0
    """See ``Memory``."""

    def column(self, feature: int) -> Array:
        """One feature of ``envs.observation``, ``[num_valid]``."""
        values: Array = self.instances[:, feature]
        return values


class Heuristic(ABC):
    """A policy that takes an instance of lowest cost."""

    kind: ClassVar[Kind]
    memory: ClassVar[Memory] = "none"
    _rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = rng
        self._counts: Counter[str] = Counter()  # name of a branch -> decisions

    def act(self, observation: Observation) -> Decision:
        """Decide. Raises ``ValueError`` where all instances are masked or a feature is not finite."""
        if self._rng is None:
            raise RuntimeError(f"{type(self).__name__}: call reset(rng) before act")
        candidates = _look(observation)
        if self.memory in ("turn", "session"):
            candidates = candidates._replace(memory=self.recall(candidates))
        costs = self.costs(candidates)
        chances = self.chances(costs, candidates)
        possible = chances.nonzero()[0].tolist()
        if len(possible) > 1:
            draw = self._rng.random()
            for place in possible:  # rounding may leave the last one a hair more than its share
                draw -= chances[place]
                if draw < 0.0:
                    break
        else:
            place = possible[0]
        self.chose(candidates, place)
        num_instances = len(observation["mask"])
        propensities, scores = np.zeros(num_instances), np.empty(num_instances)
        scores.fill(-np.inf)
        propensities[candidates.indices] = chances
        scores[candidates.indices] = -costs
        return Decision(int(candidates.indices[place]), propensities, scores)

    @abstractmethod
    def costs(self, candidates: Candidates) -> Array:
        """Price each candidate: the lower the better, finite, ``[num_valid]``."""

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Probability of each candidate, ``[num_valid]``: uniform over those of lowest cost."""
        lowest = costs == least(costs)
        chances: Array = lowest / np.count_nonzero(lowest)
        return chances

    def recall(self, candidates: Candidates) -> int:
        """What ``memory`` names, of a rule that has one; called once per decision."""
        raise NotImplementedError(f"{type(self).__name__} has the memory {self.memory!r} and no recall")

    def export(self, look: Look) -> Judgement:
        """Judge traced candidates; see ``agents.policy.Exportable``."""
        instances = look.instances.astype(np.float64)
        candidates = Candidates(instances, look.request, look.indices, look.memory)
        costs = self.costs(candidates)
        return Judgement(-costs, self.chances(costs, candidates))

    def chose(self, candidates: Candidates, place: int) -> None:  # noqa: B027
        """Take in which of the candidates was chosen: for a memory of its own."""

    def note(self, branch: str, is_taken: Any) -> None:
        """Count a branch other than the rule's main one, where it decides; traced ones count nowhere."""
        if isinstance(is_taken, np.bool_) and is_taken:
            self._counts[branch] += 1

    def observe(self, completions: Sequence[Feedback]) -> None:  # noqa: B027
        """Nothing is learned."""

    def counters(self) -> Mapping[str, int]:
        """How often a branch other than the rule's main one decided, since reset."""
        return {} if self._rng is None else dict(self._counts)


def _look(observation: Observation) -> Candidates:
    instances = cast(Raw, observation["instances"])
    request = cast(Raw, observation["request"])
    # Squares cannot cancel: their sum is finite unless a value is not, or is absurdly large.
    flat = instances.ravel()
    if not math.isfinite(flat.dot(flat)) or not math.isfinite(request.dot(request)):
        check_finite(instances, request)
    valid = observation["mask"].nonzero()[0]
    if not len(valid):
        valid_instances(observation)  # raises
    rows = instances if len(valid) == len(instances) else instances[valid]
    return Candidates(rows.astype(np.float64), request, valid)


def least(values: Array) -> np.float64:
    """Return the minimum, in a quarter of the time that ``min()`` takes for a few numbers."""
    lowest: np.float64 = values[values.argmin()]
    return lowest


def most(values: Array) -> np.float64:
    """Return the maximum, likewise."""
    highest: np.float64 = values[values.argmax()]
    return highest


def is_uneven(counts: Array, spread: float, ratio: float) -> np.bool_:
    """Whether the greatest is above the least by more than ``spread`` and more than ``ratio`` times it."""
    highest, lowest = most(counts), least(counts)
    uneven: np.bool_ = (highest - lowest > spread) & (highest > ratio * lowest)
    return uneven


def first_of_equals(costs: Array) -> Array:
    """Rank the costs, the earlier of two equals below the later: no ties are left."""
    return costs.argsort(kind="stable").argsort(kind="stable").astype(np.float64)


def demote(costs: Array, out: NDArray[np.bool_]) -> Array:
    """Put the candidates that are ``out`` behind all others; either group keeps its order."""
    demoted: Array = costs + out * (most(costs) - least(costs) + 1.0)
    return demoted


def within(name: str, value: float, low: float, high: float = math.inf) -> float:
    """Return ``value`` as a float if it is a finite number in [low, high], else raise ``ValueError``."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {value}, it must be a finite number in [{low:g}, {high:g}]")
    return float(value)


def whole(name: str, value: float, low: int) -> int:
    """Return ``value`` as an int if it is a whole number from ``low`` up, else raise ``ValueError``."""
    if within(name, value, low) != int(value):
        raise ValueError(f"{name} is {value}, it must be a whole number")
    return int(value)


def share(name: str, value: float) -> float:
    """Return a threshold in [0, 1], rounded as the float32 columns it is compared with."""
    return float(np.float32(within(name, value, 0.0, 1.0)))
