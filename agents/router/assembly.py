"""What every router is made of, whatever protocol it speaks: settings, and the desk before its fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from agents.export.runtime import BundlePolicy
from agents.hyperparameters import check_not_negative, check_positive
from agents.policy import Policy
from agents.router.asked import Identity
from agents.router.desk import Desk
from agents.router.fleet import Fleet, check
from agents.router.guard import Guard, GuardSettings
from agents.router.log import Which
from agents.router.peers import PeersSettings
from envs.live.clock import Clock
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits


@dataclass(frozen=True)
class CommonSettings:
    """All of a router but its endpoints, its policies, and how it is asked."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_instances: int = 64
    scrape_interval_s: float = 0.2
    prefix_capacity: int = 31_250
    notice_s: float = 0.0
    """How long it still takes requests once it says that it is ending."""
    drain_s: float = 60.0
    seed: int | None = None
    log_requests: Which = "failed"
    guard: GuardSettings = field(default_factory=GuardSettings)
    identity: Identity = field(default_factory=Identity)
    limits: Limits = field(default_factory=Limits)
    peers: PeersSettings = field(default_factory=PeersSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.max_instances < 1 or self.prefix_capacity < 1:
            raise ValueError(
                f"max_instances ({self.max_instances}) and prefix_capacity ({self.prefix_capacity}) must be"
                " at least 1"
            )
        check_positive(scrape_interval_s=self.scrape_interval_s, drain_s=self.drain_s)
        check_not_negative(notice_s=self.notice_s, seed=self.seed or 0)
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}, it must be in [0, 65535]; 0: any that is free")


def assemble(
    settings: CommonSettings,
    endpoints: Mapping[str, Endpoint],
    policy: BundlePolicy | None,
    heuristic: Policy,
) -> Desk:
    """A desk before a fleet that is still empty: ``await desk.fleet.become(endpoints)`` fills it.

    Args:
        settings: See there.
        endpoints: The instances that there will be, by name.
        policy: An exported policy; None: the heuristic decides.
        heuristic: What decides where the policy may not.

    Raises:
        ValueError: The endpoints cannot be, or the policy is for fewer instances.
    """
    check(endpoints, settings.max_instances)
    if policy is not None:
        check_policy(policy, settings)
    fleet = Fleet(
        settings.max_instances,
        settings.limits,
        settings.scrape_interval_s,
        Clock(),
        lambda instance: desk.traits_changed(instance),
        lambda: desk.state_changed(),
    )
    guard = Guard(policy, heuristic, settings.guard, np.random.default_rng(settings.seed))
    desk = Desk(fleet, guard, settings.prefix_capacity)
    return desk


def check_policy(policy: BundlePolicy, settings: CommonSettings) -> None:
    """Raise ``ValueError`` where a policy is for fewer instances than there are places."""
    if policy.max_instances < settings.max_instances:
        raise ValueError(
            f"the policy {policy.name} was exported for {policy.max_instances} instances, max_instances"
            f" is {settings.max_instances}: lower it, or export again with a greater max_instances"
        )
