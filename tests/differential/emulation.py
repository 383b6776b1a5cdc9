"""The emulator's rows of a scenario, driven through time as any user of the cluster drives it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from envs.cluster import Request
from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.profile import load
from envs.emulator.state import NEW, PREEMPTED, RESUMED, RUNNING
from envs.emulator.step_time import StepTimeLaw

from .scenario import Scenario, block_hashes, rows

TICK_S = 2.0**-10
"""A step of n tokens takes 10 + n ticks: sums of ticks are exact, no two steps end too close."""
PROFILE = replace(
    load("h100_llama-3.1-8b"), name="toy", gpu="toy", law=StepTimeLaw(0.0, 10 * TICK_S, TICK_S, 0.0, 0.0, 0.0)
)
MAX_STEPS = 20_000
KINDS = {NEW: "new", RESUMED: "resumed", RUNNING: "running"}


def emulate(scenario: Scenario) -> tuple[Scenario, dict[str, Any]]:
    """Play a scenario; return it with the steps at which its requests really arrived, and its rows."""
    options = dict(scenario["options"])
    block_size = options.pop("block_size")
    config = InstanceConfig(PROFILE, **options)
    cluster = EmulatedCluster([config], block_size, scrape_interval_s=1e6, step_log_rows=4096)
    waiting = sorted(enumerate(rows(scenario)), key=lambda pair: pair[1].at_step)
    arrived = [list(row) for row in scenario["requests"]]
    table: dict[int, list[Any]] = {}

    def row_of(step: int) -> list[Any]:
        return table.setdefault(step, [step, [], [], None, [], None])

    def pass_time(until_s: float) -> None:
        before = cluster.state.instances[0].copy()
        completions = cluster.advance_to(until_s).completions
        for entry in cluster.take_step_log():
            row = row_of(int(entry["step"]))
            name = int(entry["request_id"])
            row[3] = int(entry["num_free_blocks"])
            if entry["kind"] == PREEMPTED:
                row[2].append(name)
            else:
                fields = ("num_scheduled_tokens", "num_computed_before", "num_held_blocks")
                row[1].append([name, KINDS[int(entry["kind"])], *(int(entry[field]) for field in fields)])
        for done in completions:
            row_of(num_steps() - 1)[4].append(done.request_id)
        tell(before, cluster.state.instances[0])

    def tell(before: Any, now: Any) -> None:
        """Note the gauges where a step has ended, or one without tokens was chosen and so ended at once."""
        num_chosen = int(now["num_steps"] - before["num_steps"])
        num_begun = int(now["num_in_flight"]) - int(before["num_in_flight"])
        num_empty = num_chosen - num_begun - (bool(now["is_stalled"]) and not before["is_stalled"])
        is_overdue = before["tells_at_once"] and not now["tells_at_once"]
        has_ended = num_begun < 0 if num_chosen == 0 else num_empty > 0 or is_overdue
        if not has_ended:
            return
        num_used = now["num_blocks"] - now["told_free_blocks"]
        told = [int(each) for each in (now["told_running"], now["told_waiting"], num_used)]
        row_of(int(before["num_steps"]) if num_chosen else num_steps() - 1)[5] = told

    def num_steps() -> int:
        return int(cluster.state.instances["num_steps"][0])

    while waiting or cluster.num_in_flight:
        if num_steps() > MAX_STEPS:
            raise RuntimeError(f"no end after {MAX_STEPS} steps of {scenario}")
        while waiting and (waiting[0][1].at_step <= num_steps() or not cluster.num_in_flight):
            number, row = waiting.pop(0)
            arrived[number][0] = num_steps()
            hashes = np.array(block_hashes(number, row, block_size), np.int64)
            cluster.submit(
                Request(number, row.arrived, row.num_prompt, row.num_output, hashes, priority=row.priority), 0
            )
        pass_time(cluster.now_s + TICK_S / 1024)  # whatever step begins now begins
        pass_time(float(cluster.state.instances["step_ends_at_s"][0]))
    result = [table[step] for step in sorted(table)]
    for row in result:
        row[2].sort()
        row[4].sort()
    return {**scenario, "requests": arrived}, {"num_steps": num_steps(), "rows": result}
