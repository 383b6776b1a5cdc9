"""A picker as a whole: its desk, and the sockets it listens at.

picker = Picker(settings, endpoints, policy, heuristic)
await picker.start()
...
await picker.stop()        # says that it is not serving, finishes what it has
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from agents.export.runtime import BundlePolicy
from agents.picker.call import Calls, CallSettings
from agents.picker.destination import destination
from agents.picker.exchange import Exchange
from agents.picker.messages import Messages
from agents.policy import Policy
from agents.router.assembly import CommonSettings, assemble
from agents.router.exposition import registry_of
from agents.router.listen import listen
from agents.router.log import Log
from agents.router.pages import NAMES, State, page
from agents.router.peers import Peers
from envs.live.endpoint import Endpoint

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
LIVENESS = "liveness"
HEALTH_SERVICES = ("", LIVENESS, "readiness", SERVICE)
"""Of which gRPC health tells, as the protocol wants; liveness stays while it drains."""
FLUSH_S = 0.2
"""For the last replies to go out."""
MOST_OVERHEAD_BYTES = 1 << 16
"""Of a message beyond the body in it."""


@dataclass(frozen=True)
class PickerSettings(CommonSettings):
    """All of a picker but its endpoints and policies; ``conf/picker.yaml`` tells of each."""

    port: int = 9002
    admin_host: str = "127.0.0.1"
    admin_port: int = 9090
    certificate: str | None = None
    private_key: str | None = None
    notice_s: float = 1.0
    calls: CallSettings = field(default_factory=CallSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if not 0 <= self.admin_port < 65536:
            raise ValueError(
                f"admin_port is {self.admin_port}, it must be in [0, 65535]; 0: any that is free"
            )
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError(
                "certificate and private_key are two files that go together: give both or neither"
            )


class Picker:
    """Made in any place; started, used and stopped in one event loop.

    Args:
        settings: See there.
        endpoints: The instances, by name; their urls hold addresses, not names.
        policy: An exported policy; None: the heuristic decides.
        heuristic: What decides where the policy may not.

    Raises:
        ValueError: The endpoints cannot be, or gRPC or Envoy's stubs are not installed.
    """

    def __init__(
        self,
        settings: PickerSettings,
        endpoints: Mapping[str, Endpoint],
        policy: BundlePolicy | None,
        heuristic: Policy,
    ) -> None:
        self._grpc = _grpc()
        for endpoint in endpoints.values():
            destination(endpoint)  # raises where it is none
        self.desk = assemble(settings, endpoints, policy, heuristic)
        self.settings, self._endpoints = settings, dict(endpoints)
        self.state: State = "starting"
        self.log = Log(settings.log_requests)
        self.calls = Calls(self.desk, settings.calls, settings.identity, self.log)
        self._messages = Messages()
        self._peers = Peers(settings.peers, self.desk, self.log)
        self._registry = registry_of(self.calls)
        self._logging: asyncio.Task[None] | None = None
        self._server: Any = None
        self._health: Any = None
        self._pages: web.ServerRunner | None = None
        self.port = 0
        """At which gRPC listens, once it does."""

    def __str__(self) -> str:
        return f"picking at {self.settings.host}:{self.port}, pages at {self.pages_url}"

    @property
    def pages_url(self) -> str:
        """Where ``/healthz``, ``/readyz`` and ``/metrics`` are."""
        assert self._pages is not None
        host, port = self._pages.addresses[0][:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen. Raises ``OSError`` where a port is taken."""
        settings = self.settings
        self._logging = asyncio.get_running_loop().create_task(self.log.run())
        try:
            self._pages = web.ServerRunner(web.Server(self._page, access_log=None))
            await self._pages.setup()
            where = settings.admin_host, settings.admin_port
            await listen(self._pages, "picker.admin_host or picker.admin_port", *where)
            await self.desk.fleet.become(self._endpoints)
            await self._peers.start()
            await self._listen()
        except BaseException:
            await self.stop()
            raise
        self.state = "ready"
        policy = self.desk.guard.policy
        self.log.event(
            "ready",
            port=self.port,
            pages=self.pages_url,
            endpoints=list(self._endpoints),
            policy=None if policy is None else f"{policy.name} {policy.version}",
        )

    async def stop(self) -> None:
        """Say that it is not serving, after ``notice_s`` take nothing new, finish for up to ``drain_s``."""
        was_ready, self.state = self.state == "ready", "draining"
        self.log.event("draining", num_in_flight=self.calls.num_in_flight)
        if self._server is not None:
            if was_ready:
                await self._say(is_serving=False)
                await asyncio.sleep(self.settings.notice_s)
            stopping = asyncio.create_task(self._server.stop(self.settings.drain_s))
            while self.calls.num_in_flight and not stopping.done():
                await asyncio.sleep(0.02)
            await self._server.stop(FLUSH_S)  # health's watchers would stay for all of drain_s
            await stopping
            self.log.event("stopped", num_cut_off=self.calls.num_in_flight)
        if self._pages is not None:
            await self._pages.cleanup()
        await self._peers.stop()
        await self.desk.fleet.close()
        if self._logging is not None:
            self._logging.cancel()
            await asyncio.gather(self._logging, return_exceptions=True)

    async def _listen(self) -> None:
        grpc, settings = self._grpc, self.settings
        from grpc_health.v1 import health, health_pb2_grpc

        most_bytes = settings.calls.max_body_bytes + MOST_OVERHEAD_BYTES
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a port that is taken is an error
                ("grpc.max_receive_message_length", most_bytes),
                ("grpc.max_send_message_length", most_bytes),
            ]
        )
        process = grpc.stream_stream_rpc_method_handler(
            self._process, request_deserializer=self._messages.read, response_serializer=None
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Process": process})
        self._server.add_generic_rpc_handlers((handler,))
        self._health = health.aio.HealthServicer()
        await self._say(is_serving=True)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        address = f"{settings.host}:{settings.port}"
        try:
            if settings.certificate is None or settings.private_key is None:
                self.port = self._server.add_insecure_port(address)
            else:
                pair = Path(settings.private_key).read_bytes(), Path(settings.certificate).read_bytes()
                self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except FileNotFoundError as error:
            raise OSError(f"picker.certificate, picker.private_key: there is no {error.filename}") from error
        except RuntimeError as error:
            raise OSError(f"cannot listen at {address}: {error}") from error
        await self._server.start()

    async def _say(self, is_serving: bool) -> None:
        from grpc_health.v1.health_pb2 import HealthCheckResponse

        for service in HEALTH_SERVICES:
            is_well = is_serving or service == LIVENESS
            status = HealthCheckResponse.SERVING if is_well else HealthCheckResponse.NOT_SERVING
            await self._health.set(service, status)

    async def _process(self, requests: AsyncIterator[Any], context: Any) -> None:
        """One stream: one HTTP request, from its headers to the end of its answer."""
        exchange = Exchange(self.calls, self._messages)
        try:
            async for message in requests:
                for reply in exchange.take(message):
                    await context.write(reply)
                if exchange.is_over:
                    break
        finally:
            exchange.end()

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = page(request, self.state, self.desk, self._registry)
        return web.Response(status=404, text=f"there is {NAMES}\n") if answer is None else answer


def _grpc() -> Any:
    try:
        import grpc
        import grpc_health.v1  # noqa: F401 (used once it listens)
    except ImportError as error:
        raise ValueError(
            f"the picker needs {error.name}, which is not installed: pip install 'routegym[picker]'"
        ) from error
    return grpc
