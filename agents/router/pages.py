"""What operators ask of a router: is it alive, is it ready, its metrics; and what peers ask: its counts."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from prometheus_client.registry import CollectorRegistry

from agents.router.desk import Desk
from agents.router.exposition import exposition
from agents.router.fleet import Fleet
from agents.router.gossip import counts_of

MAX_DIGITS = 18
State = Literal["starting", "ready", "draining"]
NAMES = "/healthz, /readyz, /metrics and /counts"


def is_ready(state: State, fleet: Fleet) -> bool:
    """Whether requests would be served now."""
    return state == "ready" and fleet.num_open > 0


def page(
    request: web.BaseRequest, state: State, desk: Desk, registry: CollectorRegistry
) -> web.Response | None:
    """Answer one of ``NAMES``; None: it is none of them."""
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=405, text="only GET\n")
    match request.path:
        case "/health" | "/healthz":
            return web.Response(text="alive\n")
        case "/readyz":
            status = 200 if is_ready(state, desk.fleet) else 503
            return web.Response(status=status, text=f"{state}, {desk.fleet.num_open} instances up\n")
        case "/metrics":
            return web.Response(body=exposition(registry), content_type="text/plain")
        case "/counts":
            since = request.query.get("since", "0")
            if not since.isdecimal() or len(since) > MAX_DIGITS:
                return web.Response(status=400, text="since must be a whole number\n")
            return web.json_response(counts_of(desk, int(since)))
    return None
