"""From a program's config to its environment."""

from __future__ import annotations

from omegaconf import DictConfig

from conf.build import build
from envs.routing import RoutingEnv


def build_env(config: DictConfig) -> RoutingEnv:
    """The environment that the groups ``env``, ``cluster``, ``workload`` and ``reward`` describe."""
    env: RoutingEnv = build(
        config.env,
        "env",
        cluster=build(config.cluster, "cluster"),
        workload=build(config.workload, "workload"),
        reward=build(config.reward, "reward"),
    )
    return env
