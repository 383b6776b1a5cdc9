"""``python -m agents.serve``: route real traffic with an exported policy.

    python -m agents.serve policy=runs/demo/maskable_ppo-0/bundle endpoints=runs/live/endpoints.json
    python -m agents.serve heuristic=llmd_affinity 'endpoints={a: {url: "http://127.0.0.1:8100"}}'

It listens as an OpenAI-compatible server. SIGTERM or Ctrl-C: it takes nothing new and finishes what it has.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from agents.config import register
from agents.program import program
from agents.router.program import parts_of, run
from agents.router.router import Router, RouterSettings
from agents.router.warm import warm
from conf.build import build

register()


def make_router(config: DictConfig) -> Router:
    """The router that the config describes. Raises ``ValueError`` naming what cannot be."""
    parts = parts_of(config)
    settings: RouterSettings = build(config.router, "router")
    return Router(settings, parts.endpoints, parts.policy, parts.heuristic)


@hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.serve"):
        router = make_router(config)
        warm()
        run(router, "agents.serve")


if __name__ == "__main__":
    main()
