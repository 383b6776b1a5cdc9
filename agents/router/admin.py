"""The admin listener: status page, reload, roll-back, drain; on a socket of its own, behind a token.

    GET  /                    the status page, which asks for the token
    GET  /status              JSON: instances, decisions, learning
    PUT  /endpoints           {NAME: URL or {url: ..., ...}}: have these instances from now on
    POST /policy              {"bundle": FOLDER or null}, or {"version": NUMBER or null}; null: none, the last
    POST /drain               take nothing new, finish what is under way, end

All but the page itself want ``Authorization: Bearer TOKEN``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from agents.router.listen import listen
from agents.router.router import Router
from agents.router.status import History, status
from envs.live.fleet import endpoints_of

PAGE = Path(__file__).parent / "page"
MAX_BODY_BYTES = 1 << 20
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
POLICY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class AdminSettings:
    """Where the admin listener is."""

    host: str = "127.0.0.1"
    port: int = 8001
    token_env: str = "ROUTEGYM_ADMIN_TOKEN"
    """The environment variable that holds the token; without one there is no admin listener."""

    def __post_init__(self) -> None:
        """Refuse a socket that others than this machine reach."""
        if self.host not in LOOPBACK:
            raise ValueError(
                f"admin.host is {self.host}, it must be of this machine alone ({', '.join(LOOPBACK)}); reach"
                " it from elsewhere through a tunnel"
            )
        if not 0 <= self.port < 65536:
            raise ValueError(f"admin.port is {self.port}, it must be in [0, 65535]; 0: any that is free")

    def token(self) -> str | None:
        """The token, None where there is none. Raises ``ValueError`` for one that can be guessed."""
        token = os.environ.get(self.token_env)
        if token is not None and len(token) < 16:
            raise ValueError(
                f"the token in {self.token_env} has {len(token)} characters, it must have 16 at least"
            )
        return token or None


class Admin:
    """Listens beside a router.

    Args:
        router: See there; started before.
        settings: Where.
        token: What callers must know.
        end: Called when the router shall end.
    """

    def __init__(self, router: Router, settings: AdminSettings, token: str, end: Callable[[], None]) -> None:
        self._router, self._settings, self._end = router, settings, end
        self._token = token.encode()
        self._history = History(router)
        self._runner: web.AppRunner | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen. Raises ``OSError`` where the port is taken."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guarded])
        app.router.add_get("/", self._page)
        app.router.add_get("/page.js", self._page)
        app.router.add_get("/page.css", self._page)
        app.router.add_get("/status", self._status)
        app.router.add_put("/endpoints", self._endpoints)
        app.router.add_post("/policy", self._policy)
        app.router.add_post("/drain", self._drain)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await listen(self._runner, "admin.host or admin.port", self._settings.host, self._settings.port)
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def stop(self) -> None:
        """Listen no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._history.add(self._router.fleet.clock.now_s)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let those in who know the token; tell others nothing."""
        if request.path not in ("/", "/page.js", "/page.css"):
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token):
                return web.json_response(
                    {"error": "a token is wanted: Authorization: Bearer ..."}, status=401
                )
        try:
            return await handler(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/") or "page.html"
        kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
        path = PAGE / name
        text = path.read_text(encoding="utf-8")
        return web.Response(text=text, content_type=kinds[path.suffix], headers=POLICY_HEADERS)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({**status(self._router), "history": list(self._history.points)})

    async def _endpoints(self, request: web.Request) -> web.StreamResponse:
        given = await _object(request)
        endpoints = {endpoint.name: endpoint for endpoint in endpoints_of(given)}
        await self._router.fleet.become(endpoints)
        self._router.log.event("endpoints", names=list(endpoints))
        return web.json_response({"endpoints": list(endpoints)})

    async def _policy(self, request: web.Request) -> web.StreamResponse:
        given, router = await _object(request), self._router
        if list(given) == ["version"]:
            if router.learning is None:
                raise ValueError("this router does not learn, and has no versions; give bundle")
            if given["version"] is not None and type(given["version"]) is not int:
                raise ValueError(f"version is {given['version']!r}, it must be a whole number or null")
            await router.learning.choose(given["version"])
        elif list(given) == ["bundle"]:
            if not isinstance(given["bundle"], str | None):
                raise ValueError(f"bundle is {given['bundle']!r}, it must be a folder or null")
            await router.load(given["bundle"])
        else:
            raise ValueError('write {"bundle": FOLDER} or {"version": NUMBER}, null for none')
        return web.json_response({"policy": status(router)["policy"]})

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        self._end()
        return web.json_response({"state": "draining"})


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        given = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON ({error})") from error
    if not isinstance(given, dict):
        raise ValueError("the body is not a JSON object")
    return given
