"""Compile what a live episode uses before it begins, so that no request waits for it."""

from __future__ import annotations

from agents.heuristics.least_in_flight import LeastInFlight
from agents.rollout import play
from envs.emulator import fleet
from envs.routing import RoutingEnv
from envs.workload import generator


def warm_up(env: RoutingEnv) -> None:
    """Route a few requests over a small emulated cluster, where ``env`` is one over live servers.

    The environment's own kernels are compiled once for each version of the source, which takes seconds: an
    emulated cluster stands still meanwhile, a live one does not.
    """
    if env.cluster.repeatable:
        return
    block_size = env.workload.block_size
    engine = {"profile": "h100_llama-3.1-8b", "num_blocks": 65536 // block_size, "max_model_len": 8192}
    cluster = fleet.cluster({"toy": engine | {"count": len(env.cluster.traits)}}, block_size)
    workload = generator.workload(
        num_generated=10,
        prompt_median=4 * block_size,
        prompt_min=1,
        prompt_max=4000,
        output_median=4,
        hash_block_tokens=block_size,
        block_size=block_size,
    )
    toy = RoutingEnv(cluster, workload, env.reward, prefix_tokens_per_key=max(64, block_size))
    play(toy, LeastInFlight(), 0)
