"""``python -m agents.serve``: route real traffic with an exported policy.

    python -m agents.serve policy=runs/demo/maskable_ppo-0/bundle endpoints=runs/live/endpoints.json
    python -m agents.serve heuristic=llmd_affinity 'endpoints={a: {url: "http://127.0.0.1:8100"}}'

It listens as an OpenAI-compatible server. SIGTERM or Ctrl-C: it takes nothing new and finishes what it has.
SIGHUP: it reads endpoints and policy again. Where ROUTEGYM_ADMIN_TOKEN is set, a status page and the routes
of ``agents.router.admin`` are on a socket of their own.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from agents.config import register
from agents.program import program
from agents.router.admin import Admin, AdminSettings
from agents.router.learning import Learning
from agents.router.log import Log
from agents.router.program import endpoints_in, loop_factory, parts_of
from agents.router.router import Router, RouterSettings
from agents.router.tape import TapeSettings
from agents.router.warm import warm
from conf.build import build

register()


def make_router(config: DictConfig) -> Router:
    """The router that the config describes. Raises ``ValueError`` naming what cannot be."""
    parts = parts_of(config)
    settings: RouterSettings = build(config.router, "router")
    tape = None if config.record is None else TapeSettings(config.record)
    learning = _learning(config, settings)
    return Router(settings, parts.endpoints, parts.policy, parts.heuristic, learning, tape)


def _learning(config: DictConfig, settings: RouterSettings) -> Learning | None:
    if config.learning is None:
        return None
    from agents.router.trainer import take_up, teachable  # and torch, which a router has no other use for

    given: Any = OmegaConf.to_container(config.learning, resolve=True)
    agent = given.pop("agent")
    # Told now, and not by a trainer that ends:
    take_up(Path(given["directory"]), teachable(agent, given.get("run")))
    heuristic: Any = OmegaConf.to_container(config.heuristic, resolve=True)
    return Learning(
        build(given, "learning", agent=agent),
        heuristic,
        settings.max_instances,
        Log(settings.log_requests),
        settings.seed or 0,
    )


async def serve(config: DictConfig, router: Router, admin: AdminSettings) -> None:
    """Run it until SIGTERM, SIGINT or its admin ends it; SIGHUP: read endpoints and policy again."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    token = admin.token()
    listener = None if token is None else Admin(router, admin, token, stopped.set)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(config, router))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await router.start()
    try:
        if listener is not None:
            await listener.start()
        print(f"routing at {router.url}; Ctrl-C ends it", flush=True)
        if listener is None:
            print(f"no status page: export {admin.token_env}, a token of 16 characters or more", flush=True)
        else:
            print(f"status page at {listener.url}", flush=True)
        await stopped.wait()
    finally:
        await router.stop()
        if listener is not None:
            await listener.stop()


async def _reload(config: DictConfig, router: Router) -> None:
    """Read endpoints and policy again; what cannot be is told, and left as it is."""
    try:
        await router.fleet.become(endpoints_in(config))
        if config.policy is not None:
            await router.load(config.policy)
    except (ValueError, OSError) as error:
        router.log.event("not_reloaded", reason=str(error))
    else:
        router.log.event("reloaded")


@hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.serve"):
        router, admin = make_router(config), build(config.admin, "admin")
        router.log.take_over()
        warm()
        with asyncio.Runner(loop_factory=loop_factory("agents.serve")) as runner:
            runner.run(serve(config, router, admin))


if __name__ == "__main__":
    main()
