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

from aiohttp import web

from agents.export import bundle
from agents.export.runtime import BundlePolicy
from agents.policy import Policy
from agents.router.assembly import CommonSettings, assemble, check_policy
from agents.router.exposition import registry_of
from agents.router.learning import Learning
from agents.router.listen import listen
from agents.router.log import Log
from agents.router.pages import NAMES, State, page
from agents.router.peers import Peers
from agents.router.proxy import Proxy, ProxySettings
from agents.router.tape import Tape, TapeSettings
from envs.live.endpoint import Endpoint

FLUSH_S = 2.0
"""For the last answers to go out, and twice for what is cut off to end; aiohttp's own is a minute."""


@dataclass(frozen=True)
class RouterSettings(CommonSettings):
    """All of a router but its endpoints and policies; ``conf/serve.yaml`` tells of each."""

    proxy: ProxySettings = field(default_factory=ProxySettings)


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
        self.desk = assemble(settings, endpoints, policy, heuristic)
        self.fleet = self.desk.fleet
        self.settings, self._endpoints = settings, dict(endpoints)
        self.state: State = "starting"
        self.log = learning.log if learning is not None else Log(settings.log_requests)
        self.learning = learning
        if learning is not None:
            learning.adopt, self.desk.teach = self._adopt, learning.teach
        self._tape: Tape | None = None
        if tape is not None:
            version = "heuristic" if policy is None else f"{policy.name}@{policy.version}"
            self._tape = Tape(tape, settings.max_instances, version, self.log, settings.seed or 0)
            self.desk.tape, self.desk.guard.is_recorded = self._tape, True
        self.proxy = Proxy(self.desk, settings.proxy, settings.identity, self.log)
        self._peers = Peers(settings.peers, self.desk, self.log)
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
        self._runner = web.ServerRunner(server, shutdown_timeout=FLUSH_S)
        await self._runner.setup()
        try:
            await listen(self._runner, "router.host or router.port", settings.host, settings.port)
            await self.fleet.become(self._endpoints)
            await self._peers.start()
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
        """After ``notice_s`` take nothing new, finish for up to ``drain_s``, then end everything."""
        was_ready, self.state = self.state == "ready", "draining"
        self.log.event("draining", num_in_flight=self.proxy.num_in_flight)
        if was_ready:
            await asyncio.sleep(self.settings.notice_s)
        self.proxy.is_draining = True
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.drain_s):
                    while self.proxy.num_in_flight:
                        await asyncio.sleep(0.02)
            self.log.event("stopped", num_cut_off=self.proxy.num_in_flight)
            await self._runner.cleanup()
        await self._peers.stop()
        await self.fleet.close()
        if self._tape is not None:
            await asyncio.to_thread(self._tape.close)
        if self.learning is not None:
            await self.learning.stop()
        if self._logging is not None:
            self._logging.cancel()
            await asyncio.gather(self._logging, return_exceptions=True)

    async def load(self, folder: str | None) -> None:
        """Let the bundle in a folder decide from now on; None: the heuristic. What is learned waits then.

        Raises ``BundleError`` where there is none that can be loaded; the one that decides goes on then.
        """
        policy = None
        if folder is not None:
            policy = await asyncio.to_thread(bundle.load, folder)
            check_policy(policy, self.settings)
        if self.learning is not None:
            self.learning.stand_back()
        self.desk.guard.load(policy)
        self.log.event("policy", policy=None if policy is None else f"{policy.name} {policy.version}")

    def _adopt(self, policy: BundlePolicy) -> None:
        check_policy(policy, self.settings)
        self.desk.guard.swap(policy)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/v1/"):
            return await self.proxy.handle(request)
        answer = page(request, self.state, self.desk, self._registry)
        if answer is None:
            return web.Response(status=404, text=f"there is /v1/..., {NAMES}\n")
        return answer
