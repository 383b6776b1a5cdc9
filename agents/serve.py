"""``python -m agents.serve``: route real traffic with an exported policy.

    python -m agents.serve policy=runs/demo/maskable_ppo-0/bundle endpoints=runs/live/endpoints.json
    python -m agents.serve heuristic=llmd_affinity 'endpoints={a: {url: "http://127.0.0.1:8100"}}'

It listens as an OpenAI-compatible server. SIGTERM or Ctrl-C: it takes nothing new and finishes what it has.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from agents.config import register
from agents.defences.defence import is_learned
from agents.export import bundle
from agents.program import program
from agents.router.learning import Learning
from agents.router.log import Log
from agents.router.router import Router, RouterSettings
from agents.router.trainer import teachable
from agents.router.warm import warm
from conf.build import ConfigError, build
from envs.live.fleet import endpoints_of

register()


def make_router(config: DictConfig) -> Router:
    """The router that the config describes. Raises ``ValueError`` naming what cannot be."""
    policy = None if config.policy is None else bundle.load(config.policy)
    heuristic = build(config.heuristic, "heuristic")
    if is_learned(heuristic):
        raise ConfigError("heuristic: it learns; give a rule, and the bundle of what was learned as policy=")
    if config.endpoints is None:
        raise ConfigError("endpoints: null; give a file that names servers, or {NAME: {url: ...}, ...}")
    given: Any = config.endpoints
    endpoints = endpoints_of(OmegaConf.to_container(given) if OmegaConf.is_config(given) else given)  # type: ignore[arg-type]
    settings: RouterSettings = build(config.router, "router")
    named = {endpoint.name: endpoint for endpoint in endpoints}
    return Router(settings, named, policy, heuristic, _learning(config, settings))


def _learning(config: DictConfig, settings: RouterSettings) -> Learning | None:
    if config.learning is None:
        return None
    given: Any = OmegaConf.to_container(config.learning, resolve=True)
    agent = given.pop("agent")
    teachable(agent, given.get("run"))  # told now, and not by a trainer that ends
    heuristic: Any = OmegaConf.to_container(config.heuristic, resolve=True)
    return Learning(
        build(given, "learning", agent=agent),
        heuristic,
        settings.max_instances,
        Log(settings.log_requests),
        settings.seed or 0,
    )


async def serve(router: Router) -> None:
    """Run it until SIGTERM or SIGINT."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await router.start()
    print(f"routing at {router.url}; Ctrl-C ends it", flush=True)
    await stopped.wait()
    await router.stop()


@hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.serve"):
        router = make_router(config)
        warm()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(router))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        print("agents.serve: uvloop is not installed, routing is slower without", file=sys.stderr)
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
