"""The configs of the adversary's programs, typed: what Hydra composes is checked against them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class CommonConfig:
    """What both have; nodes of type ``Any`` are checked by ``conf.build``."""

    name: str = MISSING
    directory: str = MISSING
    seeds: list[int] = MISSING
    attack_seed: int = MISSING
    duration_s: float = MISSING
    warmup_s: float = MISSING
    churn_window_s: float = MISSING
    reference: str = MISSING
    harm_reference: str = MISSING
    num_workers: int = MISSING
    env: Any = MISSING
    cluster: Any = MISSING
    world: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    harm: Any = MISSING
    policies: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    threats: dict[str, Any] = field(default_factory=dict)
    attackers: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, list[str]] = field(default_factory=dict)
    only: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class RobustnessConfig(CommonConfig):
    """``conf/robustness.yaml``."""

    epsilons: list[float] = MISSING
    transfer: str = MISSING
    num_timelines: int = MISSING
    defended: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class HardenConfig(CommonConfig):
    """``conf/harden.yaml``."""

    agent: Any = MISSING
    train_workload: Any = MISSING
    train_seed: int = MISSING
    total_timesteps: int = MISSING
    checkpoint_every: int = MISSING
    rounds: int = MISSING
    frac_attacked: float = MISSING
    sets: dict[str, Any] = field(default_factory=dict)


@dataclass
class LiveConfig(CommonConfig):
    """``conf/live_attack.yaml``; ``cluster`` and ``world`` are those of either side."""

    live: Any = MISSING
    emulated: Any = MISSING
    cluster: Any = None
    world: Any = None


def register() -> None:
    """Make the schemas known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="robustness_schema", node=RobustnessConfig)
    store.store(name="harden_schema", node=HardenConfig)
    store.store(name="live_attack_schema", node=LiveConfig)
