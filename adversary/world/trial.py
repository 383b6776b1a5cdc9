"""A victim, and where it is wanted a reference, in twins of one attacked world: what an attack does.

    trial = WorldTrial.of(make_env, victim, threat, reference)
    losses = trial.play(wanted, seed)                  # a whole attack at once, [num_windows, num_knobs]

    trial.begin(seed)                                  # or window by window
    for _ in range(threat.num_windows):
        losses = trial.play_window(choose(losses))

Whatever is wanted passes through the ``Projector``; ``values`` are what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adversary.harm import Floats, Losses
from adversary.threat import Projector, Values
from adversary.trace import AttackTrace
from adversary.world.episode import FAILURE_S, WorldEpisode
from adversary.world.threat import WorldThreat
from agents.policy import Policy
from envs.routing import RoutingEnv


class WorldTrial:
    """Plays attacks and tells their losses.

    Args:
        victim: Whom the attack is to harm.
        reference: Another router in a world of its own, for a ``Harm`` that needs one; of the same threat.

    Raises:
        ValueError: The two are of different threats or numbers of instances, or share an environment.
    """

    def __init__(self, victim: WorldEpisode, reference: WorldEpisode | None = None) -> None:
        if reference is not None and (
            reference.threat != victim.threat or len(reference.knobs) != len(victim.knobs)
        ):
            raise ValueError("victim and reference are in different worlds: give both the same threat")
        if reference is not None and reference.env is victim.env:
            raise ValueError("victim and reference share an environment: give the reference a twin of it")
        self.victim, self.reference, self.threat = victim, reference, victim.threat
        self._projector = Projector(victim.knobs, victim.threat.budget)
        self._clean: dict[int, Floats] = {}  # seed -> the victim's losses without an attack
        self._rows: list[Values] = []

    @classmethod
    def of(
        cls,
        make_env: Callable[[], RoutingEnv],
        victim: Policy,
        threat: WorldThreat,
        reference: Policy | None = None,
        failure_s: float = FAILURE_S,
    ) -> WorldTrial:
        """Of policies, each in an environment of its own; ``make_env`` makes the same one each time."""
        twin = None
        if reference is not None:
            twin = WorldEpisode(make_env(), reference, threat, failure_s)
        return cls(WorldEpisode(make_env(), victim, threat, failure_s), twin)

    @property
    def values(self) -> Values:
        """What was done so far, ``[num_windows_played, num_knobs]``."""
        return np.array(self._rows).reshape(len(self._rows), len(self.victim.knobs))

    @property
    def losses(self) -> Losses:
        """Of the windows played so far; the last of all includes what came after it."""
        num = len(self._rows)
        return Losses(
            np.array(self._num_requests, np.int64),
            np.array(self._victim_s),
            np.array(self._reference_s) if self.reference is not None else np.zeros(num),
            self._clean[self._seed][:num].copy(),
        )

    def clean(self, seed: int) -> Floats:
        """The victim's losses without an attack, ``[num_windows]``; played once for each seed."""
        if seed not in self._clean:
            rows = self.threat.neutral(len(self.victim.cluster.traits))
            self.victim.begin(seed)
            waited_s = [self.victim.play_window(row)[1] for row in rows]
            waited_s[-1] += self.victim.finish()
            self._clean[seed] = np.array(waited_s)
        return self._clean[seed]

    def begin(self, seed: int) -> None:
        """Begin an attack on the world of this seed."""
        self.clean(seed)
        self._seed = seed
        self._projector.reset()
        self._rows, self._num_requests = [], list[int]()
        self._victim_s, self._reference_s = list[float](), list[float]()
        for episode in self._episodes():
            episode.begin(seed)

    def play_window(self, wanted: Values) -> Losses:
        """Play the next window, as close to what is wanted, ``[num_knobs]``, as is allowed."""
        values = self._projector.step(wanted)
        self._rows.append(values)
        is_last = len(self._rows) == self.threat.num_windows
        for episode, waited in zip(self._episodes(), (self._victim_s, self._reference_s), strict=False):
            num_requests, waited_s = episode.play_window(values)
            waited.append(waited_s + (episode.finish() if is_last else 0.0))
        self._num_requests.append(num_requests)
        return self.losses

    def play(self, wanted: Values, seed: int) -> Losses:
        """Play a whole attack, ``[num_windows, num_knobs]``."""
        self.threat.check_values(wanted)
        self.begin(seed)
        for row in wanted:
            losses = self.play_window(row)
        return losses

    def trace(self, **about: Any) -> AttackTrace:
        """What was done, as a record; ``about`` says where it comes from, beside the world's seed."""
        told: Mapping[str, Any] = {"seed": self._seed, **about}
        knobs, budget = self.victim.knobs, self.threat.budget
        return AttackTrace("world", knobs, budget, self.values, self.threat.window_s, told)

    def _episodes(self) -> list[WorldEpisode]:
        return [self.victim] if self.reference is None else [self.victim, self.reference]
