"""vllm-sr-sim's fleet simulation; runs in an environment with it."""

import json
import time
from importlib.metadata import version
from pathlib import Path

from fleet_sim import Fleet, FleetConfig, ManualProfile, PoolConfig, Request

from tests.benchmarks.peers.outcome import print_outcome, read_job, spread


def main() -> None:
    job = read_job()
    law = job["law"]
    calibration_ctx = 8192
    gpu = ManualProfile(
        name="a100",
        W=law["floor_s"],
        H=law["decode_context_s"] * calibration_ctx,
        calibration_ctx=calibration_ctx,
        chunk=job["max_num_batched_tokens"],
        blk_size=16,
        total_kv_blks=job["num_blocks"],
        max_slots=job["max_num_seqs"],
        cost_per_hr=0.0,
    )
    pool = PoolConfig("all", gpu, job["num_instances"], max_ctx=8192, lb_strategy="round_robin")
    rows = [json.loads(line) for line in Path(job["mooncake"]).read_text().splitlines()]
    arrivals = []
    for number, row in enumerate(rows):
        at_s = row["timestamp"] / 1e3
        arrivals.append((at_s, Request(number, at_s, row["input_length"], row["output_length"])))
    fleet = Fleet(FleetConfig([pool], router_type="LeastLoadedRouter"))
    started_s = time.perf_counter()
    done = fleet.run(arrivals).completed
    simulate_s = time.perf_counter() - started_s
    print_outcome(
        version("vllm-sr-sim"),
        simulate_s,
        len(done),
        sum(request.l_out for request in done),
        max(request.physical_end_time for request in done),
        spread([request.ttft for request in done]),
        spread([request.tpot for request in done]),
    )


main()
