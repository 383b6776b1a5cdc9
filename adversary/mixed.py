r"""A routing environment in which some episodes are attacked: what robust policies are trained in.

CCLab trains with 20 % adversarial traces. Any agent trains here as in ``RouteGym/Routing-v0``::

    routegym-train agent=maskable_ppo world=quiet workload=chat env=attacked \
        env.attacks=[runs/x/robustness/attacks/world-search@a.json] +adversary@env.threats.world=world
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adversary.attack import FGSM, NONE, PGD, Attack
from adversary.feature.deception import Deception
from adversary.feature.liar import Liar
from adversary.feature.threat import FeatureThreat
from adversary.world.stream import AttackedStream, calm_stream
from adversary.world.threat import WorldThreat
from agents.policy import Policy
from envs.cluster import Cluster, Request
from envs.emulator.disturbed import DisturbedCluster
from envs.observation import Observation
from envs.routing import RoutingEnv
from envs.workload.stream import Workload
from reward.weighted_sum import WeightedSum


class AttackedRoutingEnv(RoutingEnv):
    """Every episode lasts ``duration_s``; a share of them is attacked, by one of the attacks each.

    Which are follows from the episode's seed, and so does what chance decides of an attack.

    Args:
        attacks: Files of attacks (``adversary.attack``).
        threats: Name -> threat model, of all that the attacks are on.
        frac_attacked: Share of the episodes.
        duration_s: Of an episode; the threats on the world last as long.
        cluster: An emulated one with a world.
        workload: A trace in open loop, long enough for attacks that make it faster.
        reward: As of ``RoutingEnv``, as are the others.
        max_instances: As of ``RoutingEnv``, like all that follow.

    Raises:
        ValueError: An attack cannot be carried out here; names it and says why.
    """

    def __init__(
        self,
        attacks: Sequence[str],
        threats: Mapping[str, FeatureThreat | WorldThreat],
        duration_s: float,
        frac_attacked: float = 0.2,
        cluster: Cluster | None = None,
        workload: Workload | None = None,
        reward: WeightedSum | None = None,
        max_instances: int | None = None,
        prefix_hits: str = "estimated",
        prefix_tokens_per_key: int = 64,
        prefix_capacity: int = 31_250,
        prefix_max_age_s: float | None = None,
        half_life_s: float = 30.0,
        max_retries: int = 0,
        num_routers: int = 1,
        router_affinity: str = "request",
        share_interval_s: float | None = None,
    ) -> None:
        if not 0.0 <= frac_attacked <= 1.0:
            raise ValueError(f"frac_attacked is {frac_attacked}, it must lie in [0, 1]")
        if not isinstance(cluster, DisturbedCluster) or workload is None:
            raise ValueError(
                "env=attacked needs an emulated cluster with a world, and a workload: add world=quiet"
            )
        super().__init__(
            cluster,
            workload,
            reward,
            max_instances,
            prefix_hits,
            prefix_tokens_per_key,
            prefix_capacity,
            prefix_max_age_s,
            half_life_s,
            max_retries,
            num_routers,
            router_affinity,
            share_interval_s,
        )
        self.frac_attacked = frac_attacked
        self._base, self._world, self._disturbed = workload, cluster.world, cluster
        self._threats = dict(threats)
        self._folders = [Path(path).parent for path in attacks]
        self._attacks = [Attack.load(Path(path)) for path in attacks]
        self._calm = calm_stream(workload, duration_s)
        self._deception: Deception | None = None
        self._liar: Liar | None = None
        if not self._attacks and frac_attacked > 0.0:
            raise ValueError("attacks is empty: give files of attacks, or frac_attacked=0")
        for attack in self._attacks:
            self._check(attack, duration_s)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; ``info["attack"]`` is the name of its attack, empty where there is none."""
        chance = np.random.default_rng(seed if seed is None else [seed, 1])
        if seed is None:
            chance = self.np_random.spawn(1)[0]
        attacked = bool(self._attacks) and chance.random() < self.frac_attacked
        place = int(chance.integers(len(self._attacks))) if attacked else -1
        self._prepare(place, chance)
        observation, info = super().reset(seed=seed, options=options)
        return observation, info | {"attack": self._attacks[place].name if attacked else ""}

    def _check(self, attack: Attack, duration_s: float) -> None:
        threat = self._threats.get(attack.threat)
        if threat is None:
            raise ValueError(
                f"the attack {attack.name} is on the threat model {attack.threat!r}, which is none of threats"
                f" ({', '.join(self._threats) or 'none'}): add it"
            )
        if attack.how["kind"] in (NONE, FGSM, PGD):
            raise ValueError(
                f"the attack {attack.name} follows the gradient of a finished victim, or is none: leave it"
                " out"
            )
        if isinstance(threat, WorldThreat):
            if threat.duration_s != duration_s:
                raise ValueError(
                    f"threats.{attack.threat} lasts {threat.duration_s:g} s and duration_s is {duration_s:g}:"
                    " make them alike"
                )
            threat.check(self.cluster.traits, self._world)

    def _prepare(self, place: int, chance: np.random.Generator) -> None:
        """Set up the attack of this number for the next episode; -1: none."""
        self._deception = self._liar = None
        self._disturbed.world = self._world
        threat = self._threats[self._attacks[place].threat] if place >= 0 else None
        num_instances = len(self.cluster.traits)
        if isinstance(threat, WorldThreat):
            values = self._attacks[place].values(threat, num_instances, int(chance.integers(2**31)))
            self._disturbed.world = replace(self._world, schedule=threat.schedule(values))
            self.workload = AttackedStream(self._base, threat, values)
        else:
            self.workload = self._calm
        if isinstance(threat, FeatureThreat):
            attack, folder = self._attacks[place], self._folders[place]
            liar = attack.liar(threat, num_instances, _no_victims, folder)
            assert not callable(liar)  # else it follows a gradient, and was refused
            liar.reset(chance)
            self._liar = liar
            self._deception = Deception(threat, num_instances)

    def _observe(self, request: Request) -> Observation:
        observation = super()._observe(request)
        if self._deception is not None and self._liar is not None:
            now_s = self.cluster.now_s
            wanted = self._liar.choose(observation, now_s)
            _, observation = self._deception.lie(observation, wanted, now_s)
            self._observation = observation
        return observation


def _no_victims(name: str) -> Policy:
    raise ValueError(f"the attack follows the gradient of {name}, which is not there in training")
