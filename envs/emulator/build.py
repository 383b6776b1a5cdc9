"""Lay out the emulator's state for a list of instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.emulator.profile import Profile
from envs.emulator.state import (
    BLOCK_DTYPE,
    CACHE_SLOT_DTYPE,
    CACHED_BLOCK_DTYPE,
    EVENT_DTYPE,
    INSTANCE_DTYPE,
    NO_HASH,
    NONE,
    NUM_FREE_SLOTS,
    REQUEST_DTYPE,
    STEP_DTYPE,
    TWIN_DTYPE,
    UNCACHED,
    State,
)
from envs.emulator.step_time import STEP_TIME_DTYPE

POLICIES = ("fcfs", "priority")


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """One vLLM engine: what it runs on and the scheduler options it was started with.

    ``num_blocks`` counts usable blocks (vLLM reports one more, its null block). The options bear vLLM's own
    names; their defaults are those of ``vllm serve`` on a GPU.

    ``continue_after_self_preemption`` is no option of vLLM but a difference between its versions: under the
    priority policy a running request that is its own victim ends the scan of the running requests, and from
    vLLM 0.33 on it does not.
    """

    profile: Profile
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int = 32768
    prefix_caching: bool = True
    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    policy: str = "fcfs"
    async_scheduling: bool = True
    continue_after_self_preemption: bool = False

    def checked(self, index: int, block_size: int) -> InstanceConfig:
        """Return self, or raise ``ValueError`` where this engine could not run."""
        for name in ("num_blocks", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"instance {index}: {name} is {getattr(self, name)}, it must be at least 1")
        if self.long_prefill_token_threshold < 0 or not 0.0 <= self.watermark < 1.0:
            raise ValueError(
                f"instance {index}: long_prefill_token_threshold ({self.long_prefill_token_threshold}) must"
                f" not be negative and watermark ({self.watermark}) must lie in [0, 1)"
            )
        if not self.chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"instance {index}: without chunked_prefill a prompt is one step: raise"
                f" max_num_batched_tokens ({self.max_num_batched_tokens}) to max_model_len"
                f" ({self.max_model_len})"
            )
        if self.policy not in POLICIES:
            raise ValueError(f"instance {index}: policy is {self.policy!r}, use one of {', '.join(POLICIES)}")
        if self.num_blocks * block_size < self.max_model_len:
            raise ValueError(
                f"instance {index}: {self.num_blocks} blocks of {block_size} tokens cannot hold one request"
                f" of max_model_len {self.max_model_len}; raise num_blocks or lower max_model_len"
            )
        return self


def build_state(
    instances: Sequence[InstanceConfig],
    block_size: int,
    num_slots: int = 1024,
    step_log_rows: int = 0,
    event_skipping: bool = True,
) -> State:
    """Return the state of idle instances with empty caches at time 0.

    ``num_slots`` is the room for requests in flight at first; ``step_log_rows`` > 0 keeps a step log, which
    takes each step by itself, as does every step without ``event_skipping``.
    """
    if not instances:
        raise ValueError("a cluster needs at least one instance")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, it must be at least 1")
    table = np.zeros(len(instances), INSTANCE_DTYPE)
    first_block = first_row = first_cache_slot = 0
    for index, config in enumerate(instances):
        row = table[index]
        config.checked(index, block_size)
        num_cache_slots = 1 << (2 * config.num_blocks - 1).bit_length()
        row["block_size"] = block_size
        row["num_blocks"] = config.num_blocks
        row["max_num_seqs"] = config.max_num_seqs
        row["max_num_batched_tokens"] = config.max_num_batched_tokens
        row["max_model_len"] = config.max_model_len
        row["long_prefill_token_threshold"] = config.long_prefill_token_threshold
        row["watermark_blocks"] = int(config.watermark * (config.num_blocks + 1))
        row["reserve_full_isl"] = config.scheduler_reserve_full_isl
        row["prefix_caching"] = config.prefix_caching
        row["chunked_prefill"] = config.chunked_prefill
        row["by_priority"] = config.policy == "priority"
        row["continue_after_self_preemption"] = config.continue_after_self_preemption
        row["event_skipping"] = event_skipping and step_log_rows == 0
        row["max_in_flight"] = 2 if config.async_scheduling else 1
        row["first_block"] = first_block
        row["first_place"] = first_cache_slot  # as many places as cache slots: at least two per block
        row["place_mask"] = num_cache_slots - 1
        row["first_row"] = first_row
        row["first_cache_slot"] = first_cache_slot
        row["cache_slot_mask"] = num_cache_slots - 1
        for name in STEP_TIME_DTYPE.names or ():
            row[name] = getattr(config.profile.law, name)
        first_block += config.num_blocks
        first_row += config.max_num_seqs
        first_cache_slot += num_cache_slots
    longest = max(-(-config.max_model_len // block_size) for config in instances)
    state = State(
        instances=table,
        requests=np.zeros(num_slots, REQUEST_DTYPE),
        blocks=np.zeros(first_block, BLOCK_DTYPE),
        free_queue=np.zeros(first_cache_slot, np.int32),
        cached_blocks=np.zeros(first_block, CACHED_BLOCK_DTYPE),
        twins=np.zeros(first_block, TWIN_DTYPE),
        cache_slots=np.zeros(first_cache_slot, CACHE_SLOT_DTYPE),
        block_table=np.zeros((first_row, longest), np.int32),
        running=np.zeros(first_row, np.int64),
        next_alike=np.zeros(first_row, np.int64),
        free_rows=np.zeros(first_row, np.int64),
        free_slots=np.zeros(num_slots, np.int64),
        hashes=np.zeros(1 << 16, np.int64),
        events=np.zeros(2 * num_slots, EVENT_DTYPE),
        step_log=np.zeros(step_log_rows, STEP_DTYPE),
        wakes_at_s=np.zeros(len(instances)),
        counts=np.zeros(4, np.int64),
    )
    clear(state)
    return state


def clear(state: State) -> None:
    """Put every instance back to idle with an empty cache at time 0."""
    num_slots = len(state.requests)
    state.requests["num_hashes"] = 0
    state.free_slots[:] = np.arange(num_slots - 1, -1, -1)
    state.counts[:] = 0
    state.counts[NUM_FREE_SLOTS] = num_slots
    state.instances["slowdown"] = 1.0
    for index in range(len(state.instances)):
        clear_instance(state, index)


def clear_instance(state: State, index: int) -> None:
    """Give an instance the memory of an engine that has just started; it must hold no request."""
    row = state.instances[index]
    first_slot = int(row["first_cache_slot"])
    state.cache_slots["block_hash"][first_slot : first_slot + int(row["cache_slot_mask"]) + 1] = NO_HASH
    first, num = int(row["first_block"]), int(row["num_blocks"])
    blocks = state.blocks[first : first + num]
    blocks["kind"] = UNCACHED
    blocks["num_refs"] = 0
    blocks["place"] = int(row["first_place"]) + np.arange(num)
    state.free_queue[int(row["first_place"]) :][:num] = np.arange(first, first + num)
    row["free_head"], row["free_tail"] = 0, num
    row["num_free_blocks"] = row["told_free_blocks"] = num
    first_row, num_rows = int(row["first_row"]), int(row["max_num_seqs"])
    state.free_rows[first_row : first_row + num_rows] = np.arange(first_row + num_rows - 1, first_row - 1, -1)
    row["num_free_rows"] = num_rows
    row["waiting_head"] = row["waiting_tail"] = row["stale_head"] = NONE
    for name in _COUNTERS:
        row[name] = 0
    row["step_ends_at_s"] = np.inf
    state.wakes_at_s[index] = np.inf


_COUNTERS = (
    "num_loose_blocks",
    "may_have_orphans",
    "num_running",
    "num_waiting",
    "num_left_waiting",
    "told_waiting",
    "told_running",
    "told_queried_tokens",
    "told_hit_tokens",
    "num_steps",
    "num_in_flight",
    "oldest_step",
    "next_step_ends_at_s",
    "is_stalled",
    "tells_at_once",
    "num_decode_steps",
    "horizon_step",
    "looks_from_step",
    "free_at_s",
    "num_queried_tokens",
    "num_hit_tokens",
    "num_computed_tokens",
    "num_generated_tokens",
    "num_preemptions",
    "num_finished",
    "busy_s",
)
