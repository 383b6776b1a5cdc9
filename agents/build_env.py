"""From a program's config to its environment."""

from __future__ import annotations

from omegaconf import DictConfig

from conf.build import ConfigError, build
from envs.routing import RoutingEnv


def build_env(config: DictConfig) -> RoutingEnv:
    """The environment that the groups ``env``, ``cluster``, ``world``, ``workload``, ``reward`` describe."""
    world = None if config.world is None else build(config.world, "world")
    cluster = build(config.cluster, "cluster", world=world)
    if world is not None and ("world" in config.cluster or getattr(cluster, "world", None) is None):
        raise ConfigError("world: this cluster takes none, or brings its own; leave one of the two out")
    env: RoutingEnv = build(
        config.env,
        "env",
        cluster=cluster,
        workload=build(config.workload, "workload"),
        reward=build(config.reward, "reward"),
    )
    return env
