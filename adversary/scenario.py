"""What a robustness config describes, built: the world, the victims, the threats, the games.

Every episode lasts ``duration_s``, attacked or not, on whichever level: what an attack did is told against
the very same requests in peace.
"""

from __future__ import annotations

from copy import copy, deepcopy
from functools import cached_property

from omegaconf import DictConfig, OmegaConf

from adversary.attackers.attacker import Attacker
from adversary.feature.threat import FeatureThreat
from adversary.game import FeatureGame, Game, WorldGame
from adversary.harm import Harm, Naive
from adversary.world.stream import calm_stream
from adversary.world.threat import WorldThreat
from agents.cells import build_policy
from agents.policy import Policy
from conf.build import ConfigError, build
from envs.routing import RoutingEnv
from envs.workload.stream import Workload


class Scenario:
    """Builds the parts of a config, each when it is asked for."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self._policies: dict[str, Policy] = {}

    @cached_property
    def _workload(self) -> Workload:
        workload: Workload = build(self.config.workload, "workload")
        return workload

    @cached_property
    def num_instances(self) -> int:
        """Of the fleet."""
        return len(self.open_env().cluster.traits)

    def open_env(self) -> RoutingEnv:
        """The environment with all of the workload: an attack may use it up faster than an episode does."""
        world = None if self.config.world is None else build(self.config.world, "world")
        env: RoutingEnv = build(
            self.config.env,
            "env",
            cluster=build(self.config.cluster, "cluster", world=world),
            workload=copy(self._workload),  # arrays are shared, the place in it is not
            reward=build(self.config.reward, "reward"),
        )
        return env

    def env(self) -> RoutingEnv:
        """The environment of an episode in an undisturbed world, which lasts ``duration_s``."""
        env = self.open_env()
        env.workload = calm_stream(env.workload, self.config.duration_s)
        return env

    def policy(self, name: str) -> Policy:
        """A victim, as it is before any episode; what it learned is read from disk once."""
        if name not in self._policies:
            self._policies[name] = build_policy(self.config, name)
        return deepcopy(self._policies[name])

    def threat(self, name: str, epsilon: float = 1.0) -> FeatureThreat | WorldThreat:
        """A threat model, with ``epsilon`` of its bounds."""
        path = f"threats.{name}"
        node = OmegaConf.to_container(self.config.threats[name], resolve=True)
        assert isinstance(node, dict)
        node["epsilon"] = epsilon * node.get("epsilon", 1.0)
        threat = build(node, path)
        if not isinstance(threat, FeatureThreat | WorldThreat):
            raise ConfigError(f"{path}: {type(threat).__name__} is no threat model")
        if isinstance(threat, WorldThreat) and threat.duration_s != self.config.duration_s:
            raise ConfigError(
                f"{path}: its {threat.num_windows} windows of {threat.window_s:g} s are not duration_s,"
                f" {self.config.duration_s:g} s: make them alike"
            )
        return threat

    def attacker(self, name: str) -> Attacker:
        """Who looks for attacks."""
        attacker: Attacker = build(self.config.attackers[name], f"attackers.{name}")
        return attacker

    def game(self, threat: str, victim: str) -> Game:
        """One victim against one threat, on the stream that attacks are looked for on."""
        harm: Harm = build(self.config.harm, "harm")
        spared = self.config.harm_reference
        spared = spared if victim != spared else self.config.reference
        if harm.needs_reference and spared == victim:
            harm = Naive()  # against itself nobody fares worse
        policy, reference = self.policy(victim), self.policy(spared)
        model, seed = self.threat(threat), int(self.config.attack_seed)
        if isinstance(model, WorldThreat):
            return WorldGame(self.open_env, policy, reference, model, harm, seed)
        return FeatureGame(self.env, policy, reference, model, harm, seed)
