"""A router as a whole: its instances, its desk, and the sockets it listens at.

router = Router(settings, endpoints, policy, heuristic)
await router.start()
...
await router.stop()        # takes nothing new, finishes what it has
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from aiohttp import web

from agents.export import bundle
from agents.export.runtime import BundlePolicy
from agents.policy import Policy
from agents.router.asked import Identity
from agents.router.desk import Desk
from agents.router.exposition import exposition, registry_of
from agents.router.fleet import Fleet, check
from agents.router.guard import Guard, GuardSettings
from agents.router.learning import Learning
from agents.router.log import Log, Which
from agents.router.proxy import Proxy, ProxySettings
from agents.router.tape import Tape, TapeSettings
from envs.live.clock import Clock
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits

State = Literal["starting", "ready", "draining"]
NUM_WAITING_CONNECTIONS = 1024


@dataclass(frozen=True)
class RouterSettings:
    """All of a router but its endpoints and policies; ``conf/serve.yaml`` tells of each."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_instances: int = 64
    scrape_interval_s: float = 0.2
    prefix_capacity: int = 31_250
    drain_s: float = 60.0
    seed: int | None = None
    log_requests: Which = "failed"
    guard: GuardSettings = field(default_factory=GuardSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    identity: Identity = field(default_factory=Identity)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.max_instances < 1 or self.prefix_capacity < 1:
            raise ValueError(
                f"max_instances ({self.max_instances}) and prefix_capacity ({self.prefix_capacity}) must be"
                " at least 1"
            )
        for name in ("scrape_interval_s", "drain_s"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise ValueError(f"{name} is {value}, it must be a positive number of seconds")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}, it must be in [0, 65535]; 0: any that is free")


class Router:
    """Made in any place; started, used and stopped in one event loop.

    Args:
        settings: See there.
        endpoints: The instances, by name.
        policy: An exported policy; None: the heuristic decides.
        heuristic: What decides where the policy may not.
        learning: Where what requests took is learned from.
        tape: Where decisions are recorded.

    Raises:
        ValueError: The endpoints cannot be.
    """

    def __init__(
        self,
        settings: RouterSettings,
        endpoints: Mapping[str, Endpoint],
        policy: BundlePolicy | None,
        heuristic: Policy,
        learning: Learning | None = None,
        tape: TapeSettings | None = None,
    ) -> None:
        check(endpoints, settings.max_instances)
        self.settings, self._endpoints = settings, dict(endpoints)
        if policy is not None:
            self._check(policy)
        self.state: State = "starting"
        self.fleet = Fleet(
            settings.max_instances,
            settings.limits,
            settings.scrape_interval_s,
            Clock(),
            lambda instance: self.desk.traits_changed(instance),
            lambda: self.desk.state_changed(),
        )
        guard = Guard(policy, heuristic, settings.guard, np.random.default_rng(settings.seed))
        self.desk = Desk(self.fleet, guard, settings.prefix_capacity)
        self.log = learning.log if learning is not None else Log(settings.log_requests)
        self.learning = learning
        if learning is not None:
            learning.adopt, self.desk.teach = guard.swap, learning.teach
        self._tape: Tape | None = None
        if tape is not None:
            version = "heuristic" if policy is None else f"{policy.name}@{policy.version}"
            self._tape = Tape(tape, settings.max_instances, version, self.log, settings.seed or 0)
            self.desk.tape = self._tape
        self.proxy = Proxy(self.desk, settings.proxy, settings.identity, self.log)
        self._registry = registry_of(self.proxy)
        self._logging: asyncio.Task[None] | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen. Raises ``OSError`` where the port is taken."""
        settings = self.settings
        self._logging = asyncio.get_running_loop().create_task(self.log.run())
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=settings.proxy.idle_timeout_s,
            max_line_size=settings.proxy.max_header_bytes,
            max_field_size=settings.proxy.max_header_bytes,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, settings.host, settings.port, backlog=NUM_WAITING_CONNECTIONS)
            await site.start()
            await self.fleet.become(self._endpoints)
            if self.learning is not None:
                await self.learning.start()
        except BaseException:
            await self.stop()
            raise
        self.state = "ready"
        guard = self.desk.guard
        self.log.event(
            "ready",
            url=self.url,
            endpoints=list(self._endpoints),
            policy=None if guard.policy is None else f"{guard.policy.name} {guard.policy.version}",
        )

    async def stop(self) -> None:
        """Take nothing new, finish what is under way for up to ``drain_s``, then end everything."""
        self.state = "draining"
        self.proxy.is_draining = True
        self.log.event("draining", num_in_flight=self.proxy.num_in_flight)
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.drain_s):
                    while self.proxy.num_in_flight:
                        await asyncio.sleep(0.02)
            self.log.event("stopped", num_cut_off=self.proxy.num_in_flight)
            await self._runner.cleanup()
        await self.fleet.close()
        if self._tape is not None:
            await asyncio.to_thread(self._tape.close)
        if self.learning is not None:
            await self.learning.stop()
        if self._logging is not None:
            self._logging.cancel()
            await asyncio.gather(self._logging, return_exceptions=True)

    async def load(self, folder: str | None) -> None:
        """Let the bundle in a folder decide from now on; None: the heuristic.

        Raises ``BundleError`` where there is none that can be loaded; the one that decides goes on then.
        """
        policy = None
        if folder is not None:
            policy = await asyncio.to_thread(bundle.load, folder)
            self._check(policy)
        self.desk.guard.load(policy)
        self.log.event("policy", policy=None if policy is None else f"{policy.name} {policy.version}")

    def _check(self, policy: BundlePolicy) -> None:
        if policy.max_instances < self.settings.max_instances:
            raise ValueError(
                f"the policy {policy.name} was exported for {policy.max_instances} instances, max_instances"
                f" is {self.settings.max_instances}: lower it, or export again with a greater max_instances"
            )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/v1/"):
            return await self.proxy.handle(request)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="only GET\n")
        match request.path:
            case "/health" | "/healthz":
                return web.Response(text="alive\n")
            case "/readyz":
                is_ready = self.state == "ready" and self.fleet.num_open > 0
                text = f"{self.state}, {self.fleet.num_open} instances up\n"
                return web.Response(status=200 if is_ready else 503, text=text)
            case "/metrics":
                return web.Response(body=exposition(self._registry), content_type="text/plain")
        return web.Response(status=404, text="there is /v1/..., /healthz, /readyz and /metrics\n")
