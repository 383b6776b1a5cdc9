"""A toy engine whose arithmetic is exact in binary: a step of n tokens takes 10 + n ticks."""

from dataclasses import replace

import numpy as np

from envs.cluster import NO_HASHES, Request
from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.profile import load
from envs.emulator.step_time import StepTimeLaw

TICK_S = 2.0**-10
LAW = StepTimeLaw(0.0, 10 * TICK_S, TICK_S, 0.0, 0.0, 0.0)
PROFILE = replace(load("h100_llama-3.1-8b"), name="toy", gpu="toy", law=LAW)
LOG_FIELDS = (
    "step",
    "starts_at_s",
    "ends_at_s",
    "request_id",
    "num_scheduled_tokens",
    "num_computed_before",
    "num_held_blocks",
    "num_free_blocks",
    "kind",
)


def toy_instance(**options):
    """Scheduling is synchronous unless asked otherwise: such timelines are the easier to compute by hand."""
    defaults = {"num_blocks": 64, "max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 16}
    defaults["async_scheduling"] = False
    return InstanceConfig(PROFILE, **{**defaults, **options})


def toy_cluster(block_size=4, step_log_rows=1000, scrape_interval_s=0.1, gauges_at_steps=False, **options):
    instances = [toy_instance(**options)]
    return EmulatedCluster(
        instances, block_size, scrape_interval_s, step_log_rows, gauges_at_steps=gauges_at_steps
    )


def request(request_id, at_ticks, num_prompt_tokens, num_output_tokens, hashes=()):
    block_hashes = np.array(hashes, np.int64) if len(hashes) else NO_HASHES
    return Request(request_id, at_ticks * TICK_S, num_prompt_tokens, num_output_tokens, block_hashes)


def play(cluster, requests):
    """Submit each request to instance 0 at its arrival; return all events and the step log in ticks."""
    first_tokens, completions = [], []
    for item in requests:
        for seen, new in zip((first_tokens, completions), cluster.advance_to(item.arrived_at_s), strict=True):
            seen.extend(new)
        cluster.submit(item, 0)
    for seen, new in zip((first_tokens, completions), cluster.drain(), strict=True):
        seen.extend(new)
    rows = cluster.take_step_log()
    for name in ("starts_at_s", "ends_at_s"):
        rows[name] /= TICK_S
    log = [tuple(row) for row in rows[list(LOG_FIELDS)].tolist()]
    return first_tokens, completions, log
