"""Dynamo's mocker in offline replay; runs in an environment with ``ai-dynamo-runtime``."""

import time
from importlib.metadata import version

from dynamo import _core

from tests.benchmarks.peers.outcome import print_outcome, read_job


def main() -> None:
    job = read_job()
    engine = {
        "backend": "vllm",
        "block_size": job["block_size"],
        "num_gpu_blocks": job["num_blocks"] * 16 // job["block_size"],
        "max_num_seqs": job["max_num_seqs"],
        "max_num_batched_tokens": job["max_num_batched_tokens"],
        "enable_prefix_caching": True,
        "speedup_ratio": job["speedup_ratio"],
    }
    started_s = time.perf_counter()
    result = _core.run_mocker_trace_replay(
        [job["mooncake"]],
        extra_engine_args={"engine": engine},
        num_workers=job["num_instances"],
        router_mode=job["router_mode"],
        trace_block_size=64,
        replay_mode="offline",
    )
    simulate_s = time.perf_counter() - started_s
    summary = result.summary
    print_outcome(
        version("ai-dynamo-runtime"),
        simulate_s,
        summary["completed_requests"],
        summary["total_output_tokens"],
        summary["duration_ms"] / 1e3,
        *(
            {
                name: summary[f"{key}_{kind}_ms"] / 1e3
                for name, key in {"mean": "mean", "p50": "median", "p99": "p99"}.items()
            }
            for kind in ("ttft", "tpot")
        ),
    )


main()
