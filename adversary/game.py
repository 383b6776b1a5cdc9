"""One victim against one threat model on one request stream: what attackers play to find their attacks.

An attack on the world is evaluated by ``WorldGame.harm_of(wanted)``, one on features by
``FeatureGame.harm_of(liar)``; either is an episode that the victim routes. ``env()`` is the same game for
reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from adversary.feature.env import FeatureAdversaryEnv
from adversary.feature.episodes import Episodes
from adversary.feature.liar import Liar
from adversary.feature.threat import FeatureThreat
from adversary.harm import Harm
from adversary.threat import Values
from adversary.world.env import WorldAdversaryEnv
from adversary.world.threat import WorldThreat
from adversary.world.trial import WorldTrial
from agents.policy import Policy
from envs.routing import RoutingEnv

MakeEnv: TypeAlias = Callable[[], RoutingEnv]


class WorldGame:
    """Attacks on the world.

    Args:
        make_env: Makes the environment, the same each time.
        victim: Whom to harm.
        reference: The router to compare it with, where the harm is relative.
        threat: What may be done.
        harm: What is wanted.
        seed: Of the request stream.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        victim: Policy,
        reference: Policy,
        threat: WorldThreat,
        harm: Harm,
        seed: int,
    ) -> None:
        self._make_env, self.victim, self._reference = make_env, victim, reference
        self.threat, self.harm, self.seed = threat, harm, seed
        self._trial = WorldTrial.of(make_env, victim, threat, reference if harm.needs_reference else None)
        self.knobs = self._trial.victim.knobs
        self.num_steps = threat.num_windows

    def harm_of(self, wanted: Values) -> float:
        """Play an attack, ``[num_windows, num_knobs]``."""
        return self.harm(self._trial.play(wanted, self.seed))

    def env(self) -> WorldAdversaryEnv:
        """The same for an agent that acts window by window."""
        return WorldAdversaryEnv(
            self._make_env, self.victim, self._reference, self.threat, self.harm, (self.seed,)
        )


class FeatureGame:
    """Attacks on features; arguments as of ``WorldGame``."""

    def __init__(
        self,
        make_env: MakeEnv,
        victim: Policy,
        reference: Policy,
        threat: FeatureThreat,
        harm: Harm,
        seed: int,
    ) -> None:
        self._make_env, self.victim, self._reference = make_env, victim, reference
        self.threat, self.harm, self.seed = threat, harm, seed
        self._episodes = Episodes(make_env(), victim, reference if harm.needs_reference else None)
        self.num_instances = self._episodes.num_instances
        self.knobs = self._episodes.knobs(threat)

    @property
    def num_steps(self) -> int:
        """Decisions of an episode in peace."""
        return len(self._episodes.clean(self.seed))

    def harm_of(self, liar: Liar | Callable[[Policy], Liar]) -> float:
        """Let a liar deceive the victim for an episode; or one that is made for the victim's copy."""
        return self.harm(self._episodes.attacked(self.threat, liar, self.seed).losses)

    def env(self) -> FeatureAdversaryEnv:
        """The same for an agent that acts decision by decision."""
        env, seeds = self._make_env(), (self.seed,)
        return FeatureAdversaryEnv(env, self.victim, self.threat, self.harm, self._reference, seeds)


Game: TypeAlias = WorldGame | FeatureGame
