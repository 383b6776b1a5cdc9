"""A GPU that is only a clock: how long a step takes, and when it begins and ends.

The law is that of ``envs/emulator/step_time.py``, to the last bit, in plain Python.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import TextIO

TURNAROUND_S = 0.005
"""An engine that brings its next step within this time of the last one's result has not been idle."""
MAX_TURNAROUND_S = 0.02
"""Where vLLM took longer it was held up, which says nothing of the next step."""
SMOOTHING = 0.2
"""Weight of the newest step in the average of what vLLM takes between two."""
MAX_LEAD = 0.1
"""The most of a step's time that its result may be early by."""
NUM_KNOTS = 16

Law = Mapping[str, float]
"""``StepTimeLaw._asdict()``."""


def _between(number: float, low: float, high: float) -> float:
    return min(max(number, low), high) - low


def _stairs_s(law: Law, num_tokens: float) -> float:
    """The piecewise linear part, summed in groups of four as the emulator does."""
    knots = [law[f"knot_{number}_tokens"] for number in range(1, NUM_KNOTS + 1)]
    sides = [_between(num_tokens, low, high) for low, high in pairwise(knots)]
    sides.append(max(num_tokens - knots[-1], 0.0))
    parts = [law[f"slope_{number}_s"] * side for number, side in enumerate(sides, 1)]
    groups = [parts[at] + parts[at + 1] + parts[at + 2] + parts[at + 3] for at in range(0, NUM_KNOTS, 4)]
    return groups[0] + groups[1] + groups[2] + groups[3]


def step_time_s(
    law: Law,
    num_prefill_tokens: float,
    num_attended_pairs: float,
    num_decodes: float,
    num_decode_context_tokens: float,
) -> float:
    """Seconds that one engine step takes; see ``envs.emulator.step_time.step_time_s``."""
    num_tokens = num_prefill_tokens + num_decodes
    linear_s = law["overhead_s"] + law["token_s"] * num_tokens
    attention_s = (
        law["prefill_attention_s"] * num_attended_pairs
        + law["decode_sequence_s"] * num_decodes
        + law["decode_context_s"] * num_decode_context_tokens
    )
    prefill_extra_s = (
        law["prefill_step_s"] * min(num_prefill_tokens, 1.0)
        + law["prefill_token_s"] * num_prefill_tokens
        + law["prefill_far_s"] * max(num_attended_pairs, law["prefill_far_pairs"] * num_prefill_tokens)
    )
    least_tokens = law["decode_least_tokens"] * num_decodes
    first_tokens = max(num_decode_context_tokens - law["decode_first_after"], 0.0)
    near_tokens = law["decode_near_tokens"] * max(num_decodes - law["decode_near_after"], 0.0)
    more_tokens = law["decode_more_tokens"] * max(num_decodes - law["decode_more_after"], 0.0)
    decode_extra_s = (
        law["decode_step_s"] * min(num_decodes, 1.0)
        + law["decode_least_s"] * max(num_decode_context_tokens, least_tokens)
        + law["decode_first_s"] * min(first_tokens, law["decode_first_tokens"])
        + law["decode_near_s"] * min(num_decode_context_tokens, near_tokens)
        + law["decode_more_s"] * min(num_decode_context_tokens, more_tokens)
    )
    extra_s = _stairs_s(law, num_tokens) + prefill_extra_s + decode_extra_s
    return max(law["floor_s"], linear_s) + attention_s + extra_s


def duration_s(law: Law, scheduled: Mapping[str, int], computed: Mapping[str, int]) -> float:
    """Seconds of the step that schedules these tokens of each request, after those computed before."""
    num_prefill_tokens, num_decodes = 0, 0
    num_attended_pairs, num_context_tokens = 0.0, 0.0
    for request, num_new in scheduled.items():
        num_computed = computed[request]
        if num_new == 1:
            num_decodes += 1
            num_context_tokens += num_computed + 1
        else:
            num_prefill_tokens += num_new
            num_attended_pairs += num_new * (num_computed + 0.5 * (num_new + 1))
    return step_time_s(law, num_prefill_tokens, num_attended_pairs, num_decodes, num_context_tokens)


class ModelledDevice:
    """Runs one step at a time, in real time.

    The clock is *virtual* in that the milliseconds which vLLM itself takes between two steps do not add up. A
    step that follows another without the engine having been idle begins where the last one ended, however
    late vLLM brings it; its result is there when it ends, or at once if that has passed. So an engine that
    was late catches up, by at most ``max_catch_up_s``: what is beyond that is lost, as for a GPU that was
    kept waiting.

    Nor do they let requests in: what comes while vLLM still processes a step that has ended would join the
    next one, which has begun already. So a result is handed over before its step ends by as much as vLLM has
    lately taken to bring the next one, which is then chosen when it begins.
    """

    def __init__(
        self, law: Law, time_scale: float = 1.0, max_catch_up_s: float = 0.5, step_log: str | None = None
    ) -> None:
        """Start idle.

        Args:
            law: ``StepTimeLaw._asdict()``.
            time_scale: How many times slower than the law.
            max_catch_up_s: How far behind the clock a step may begin.
            step_log: File to which every step is appended as a line of JSON; none without.
        """
        self.law = law
        self.time_scale = time_scale
        self.max_catch_up_s = max_catch_up_s
        self._log: TextIO | None = open(step_log, "a", buffering=1) if step_log else None  # noqa: SIM115
        self._unfinished: set[str] = set()  # requests that have run and have not finished
        self._ends_at_s = -float("inf")
        self._delivered_at_s = -float("inf")
        self._turnaround_s = 0.0  # what vLLM takes between two steps
        self._lead_s = 0.0  # how long before its end the last step's result is handed over

    def close(self) -> None:
        """Close the step log."""
        if self._log:
            self._log.close()

    def forget(self, finished: set[str]) -> None:
        """Take note of requests that have finished, or were aborted."""
        self._unfinished -= finished

    def begin(self, scheduled: Mapping[str, int], computed: Mapping[str, int]) -> None:
        """Begin a step, whose tokens and computed tokens these are, by request."""
        now_s = time.monotonic()
        begins_at_s = max(self._ends_at_s, now_s)
        if self._unfinished or now_s - self._delivered_at_s <= TURNAROUND_S:
            begins_at_s = max(self._ends_at_s, now_s - self.max_catch_up_s)
            turnaround_s = min(now_s - self._delivered_at_s, MAX_TURNAROUND_S)
            self._turnaround_s += SMOOTHING * (turnaround_s - self._turnaround_s)
        step_s = duration_s(self.law, scheduled, computed) * self.time_scale
        self._ends_at_s = begins_at_s + step_s
        self._lead_s = min(self._turnaround_s, MAX_LEAD * step_s)
        self._unfinished.update(scheduled)
        if self._log:
            row = {
                "begins_at_s": begins_at_s,
                "duration_s": step_s,
                "chosen_late_s": now_s - begins_at_s,
                "late_s": max(0.0, time.monotonic() - self._ends_at_s),
                "scheduled": dict(scheduled),
                "computed": {request: computed[request] for request in scheduled},
            }
            self._log.write(json.dumps(row) + "\n")

    def end(self) -> None:
        """Wait until the step has ended, or is about to."""
        time.sleep(max(0.0, self._ends_at_s - self._lead_s - time.monotonic()))
        self._delivered_at_s = time.monotonic()
