"""The routers that are measured: how each is started in front of some backends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = Path(".venv-peers")


@dataclass(frozen=True)
class Measured:
    """One row."""

    title: str
    command: tuple[str, ...]
    """With ``{port}``, ``{backends}`` (URLs, each an argument of its own) and ``{endpoints}`` (ours)."""
    requirement: str = ""
    """What pip installs into an environment of its own; empty: it runs in ours."""

    @property
    def environment(self) -> Path:
        """Its environment's folder."""
        return ENVIRONMENTS / self.requirement.split("==")[0]

    def arguments(self, port: int, backends: Sequence[str], folder: Path) -> list[str]:
        """The command line in front of these backends; ``folder`` is for its bundle."""
        python = sys.executable if not self.requirement else str(self.environment / "bin" / "python")
        endpoints = ", ".join(f'b{number}: "{url}"' for number, url in enumerate(backends))
        arguments: list[str] = []
        for part in self.command:
            if part == "{backends}":
                arguments += backends
            else:
                part = part.replace("{port}", str(port)).replace("{other_port}", str(port + 1000))
                part = part.replace("{endpoints}", "{" + endpoints + "}").replace("{folder}", str(folder))
                arguments.append(part)
        return [python, *arguments]


OURS = (
    "-m",
    "agents.serve",
    "router.port={port}",
    "endpoints={endpoints}",
    "router.max_instances=16",
    "router.guard.max_decision_s=1.0",
)
RUST = ("--host", "127.0.0.1", "--port", "{port}", "--prometheus-port", "{other_port}")
RUST += ("--log-level", "error", "--worker-urls", "{backends}")
VLLM_ROUTER = "vllm-router==0.1.17"
SGLANG_ROUTER = "sglang-router==0.3.2"

ROUTERS = (
    Measured("RouteGym, PPO", (*OURS, "policy={folder}", "router.guard.check_range=false")),
    Measured("RouteGym, llmd_token_load", (*OURS, "agent@heuristic=llmd_token_load")),
    Measured(
        "Envoy 1.40 and RouteGym's picker, PPO",
        ("-m", "tests.benchmarks.router.envoy_and_picker", "{port}", "{folder}", "{backends}"),
    ),
    Measured(
        "vllm-router 0.1.17, round_robin",
        ("-m", "vllm_router.launch_router", *RUST, "--policy", "round_robin"),
        VLLM_ROUTER,
    ),
    Measured(
        "vllm-router 0.1.17, cache_aware",
        ("-m", "vllm_router.launch_router", *RUST, "--policy", "cache_aware"),
        VLLM_ROUTER,
    ),
    Measured(
        "sglang-router 0.3.2, cache_aware",
        ("-m", "sglang_router.launch_router", *RUST, "--policy", "cache_aware"),
        SGLANG_ROUTER,
    ),
)
