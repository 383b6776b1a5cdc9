"""What the programs that route real traffic share: what their configs name, and how they run."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any, NamedTuple, Protocol

from omegaconf import DictConfig, OmegaConf

from agents.defences.defence import is_learned
from agents.export import bundle
from agents.export.runtime import BundlePolicy
from agents.policy import Policy
from conf.build import ConfigError, build
from envs.live.endpoint import Endpoint
from envs.live.fleet import endpoints_of


class Server(Protocol):
    """What runs until it is told to end."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End, after what is under way."""


class Parts(NamedTuple):
    """Of a router."""

    endpoints: dict[str, Endpoint]
    policy: BundlePolicy | None
    heuristic: Policy


def parts_of(config: DictConfig) -> Parts:
    """Build ``endpoints``, ``policy`` and ``heuristic``. Raises ``ValueError`` naming what cannot be."""
    policy = None if config.policy is None else bundle.load(config.policy)
    heuristic = build(config.heuristic, "heuristic")
    if is_learned(heuristic):
        raise ConfigError("heuristic: it learns; give a rule, and the bundle of what was learned as policy=")
    if getattr(heuristic, "memory", "none") == "own":
        raise ConfigError(
            "heuristic: it goes by outcomes, which a router tells no heuristic; give another rule"
        )
    return Parts(endpoints_in(config), policy, heuristic)


def endpoints_in(config: DictConfig) -> dict[str, Endpoint]:
    """Build ``endpoints``. Raises ``ValueError`` naming what cannot be."""
    given: Any = config.endpoints
    if given is None:
        raise ConfigError("endpoints: null; give a file that names servers, or {NAME: {url: ...}, ...}")
    plain: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    return {endpoint.name: endpoint for endpoint in endpoints_of(plain)}


def run(server: Server, name: str) -> None:
    """Start it, print its ``str`` once it is ready, and stop it at SIGTERM or SIGINT.

    Args:
        server: What runs.
        name: The program's.
    """
    with asyncio.Runner(loop_factory=loop_factory(name)) as runner:
        runner.run(_until_told(server))


async def _until_told(server: Server) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.start()
    print(f"{server}; Ctrl-C ends it", flush=True)
    await stopped.wait()
    await server.stop()


def loop_factory(name: str) -> Any:
    """Uvloop's where it is installed, else asyncio's own, and says so."""
    try:
        import uvloop
    except ImportError:
        print(f"{name}: uvloop is not installed, routing is slower without", file=sys.stderr)
        return None
    return uvloop.new_event_loop
