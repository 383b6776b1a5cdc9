"""RouteGym's emulator: the bare loop (``mode`` replay) or an episode through Gymnasium (``mode`` env)."""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np

import envs  # noqa: F401 (registers the environment)
from envs.emulator import fleet
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.replay import replay
from envs.emulator.rules import round_robin
from envs.feedback import Feedback
from envs.workload.replay import Replay
from envs.workload.trace import Trace
from tests.benchmarks.peer_stream import as_stream, read_npz
from tests.benchmarks.peers.outcome import print_outcome, read_job, spread

NUM_WARM_UP = 200
"""Requests that are served before the clock starts, so that everything is compiled."""


def replayed(
    cluster: EmulatedCluster, trace: Trace, hashed: bool = True
) -> tuple[float, np.ndarray, np.ndarray]:
    """Wall seconds of the bare loop; TTFT and E2E of each request."""
    stream = as_stream(trace, cluster.block_size)
    if not hashed:
        stream = stream._replace(hash_offsets=np.zeros_like(stream.hash_offsets))
    started_s = time.perf_counter()
    ledger = replay(cluster, [stream], round_robin)
    took_s = time.perf_counter() - started_s
    return took_s, ledger.first_token_at_s - trace.arrived_at_s, ledger.finished_at_s - trace.arrived_at_s


def played(cluster: EmulatedCluster, trace: Trace) -> tuple[float, np.ndarray, np.ndarray]:
    """Wall seconds of an episode in which the instances take turns; TTFT and E2E of each request."""
    env = gymnasium.make(
        "RouteGym/Routing-v0",
        cluster=cluster,
        workload=Replay(trace, block_size=cluster.block_size),
        disable_env_checker=True,
    )
    num_instances = len(cluster.configs)
    outcomes: list[Feedback] = []
    env.reset(seed=0)
    started_s, instance, done = time.perf_counter(), 0, False
    while not done:
        _, _, done, _, info = env.step(instance)
        outcomes += info["completions"]
        instance = (instance + 1) % num_instances
    took_s = time.perf_counter() - started_s
    outcomes.sort(key=lambda outcome: outcome.decision_id)
    ttft_s, e2e_s = ([getattr(outcome, name) for outcome in outcomes] for name in ("ttft_s", "e2e_s"))
    return took_s, np.array(ttft_s), np.array(e2e_s)


def main() -> None:
    job = read_job()
    trace = read_npz(Path(job["npz"])).head(job["num_requests"])
    group = {
        "count": job["num_instances"],
        "profile": job["profile"],
        "num_blocks": job["num_blocks"] * 16 // job["block_size"],
        "max_num_seqs": job["max_num_seqs"],
        "max_num_batched_tokens": job["max_num_batched_tokens"],
    }
    cluster = fleet.cluster({"a100": group}, job["block_size"])
    run = played if job["mode"] == "env" else partial(replayed, hashed=job.get("hashed", True))
    run(cluster, trace.head(NUM_WARM_UP))
    simulate_s, ttft_s, e2e_s = run(cluster, trace)
    tpot_s = (e2e_s - ttft_s) / np.maximum(trace.num_output_tokens - 1, 1)
    print_outcome(
        version("routegym"),
        simulate_s,
        int(np.isfinite(e2e_s).sum()),
        int(trace.num_output_tokens.sum()),
        float((trace.arrived_at_s + e2e_s).max()),
        spread(ttft_s.tolist()),
        spread(tpot_s.tolist()),
    )


main()
