"""The emulator's memory: four tables of records that every compiled function works on.

The engine is a set of plain functions over this state (no classes inside compiled code), so that one call
can advance a whole cluster and a test can look at everything between two steps. Blocks, block-table rows
and cache-table slots of all instances lie in common arrays; an instance's record says where its share
begins. ``NONE`` marks an absent index everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.emulator.step_time import STEP_TIME_DTYPE

NONE = -1

InstanceRecord: TypeAlias = Any
"""One row of ``State.instances``; NumPy's typing has no structured rows."""
RequestRecord: TypeAlias = Any
"""One row of ``State.requests``."""

INSTANCE_DTYPE = np.dtype(
    [
        # what the instance is: fixed while it lives
        ("block_size", "i8"),
        ("num_blocks", "i8"),  # usable ones; vLLM's own count is one more, for its null block
        ("max_num_seqs", "i8"),
        ("max_num_batched_tokens", "i8"),
        ("max_model_len", "i8"),
        ("long_prefill_token_threshold", "i8"),
        ("watermark_blocks", "i8"),
        ("max_in_flight", "i8"),  # steps: 2 under asynchronous scheduling, else 1
        ("reserve_full_isl", "?"),
        ("prefix_caching", "?"),
        ("chunked_prefill", "?"),
        ("by_priority", "?"),
        ("continue_after_self_preemption", "?"),
        ("event_skipping", "?"),
        ("first_block", "i8"),
        ("first_row", "i8"),
        ("first_cache_slot", "i8"),
        ("cache_slot_mask", "i8"),
        *[(name, "f8") for name in STEP_TIME_DTYPE.names or ()],
        ("slowdown", "f8"),  # how many times as long its steps take as by that law
        # its free-block queue, in eviction order: a ring with gaps, from free_head up to before free_tail
        ("first_place", "i8"),
        ("place_mask", "i8"),
        ("free_head", "i8"),
        ("free_tail", "i8"),
        ("num_free_blocks", "i8"),  # not counting gaps
        ("num_loose_blocks", "i8"),
        ("may_have_orphans", "?"),
        # its scheduler
        ("num_running", "i8"),
        ("waiting_head", "i8"),
        ("waiting_tail", "i8"),
        ("num_waiting", "i8"),
        ("num_free_rows", "i8"),
        ("stale_head", "i8"),  # preempted while a token of theirs is on its way
        # its gauges, as they were when a step last ended
        ("num_left_waiting", "i8"),  # by the last step chosen; who has come since is not told of
        ("told_waiting", "i8"),
        ("told_running", "i8"),
        ("told_free_blocks", "i8"),
        ("told_queried_tokens", "i8"),
        ("told_hit_tokens", "i8"),
        # its steps in flight: one that runs, and maybe one that runs next
        ("num_steps", "i8"),  # calls of schedule
        ("num_in_flight", "i8"),
        ("is_stalled", "?"),  # nothing is to be scheduled until the step that runs has ended
        ("tells_at_once", "?"),  # when the next step is chosen: one without tokens is in flight
        ("oldest_step", "i8"),  # number of the step that runs
        ("free_at_s", "f8"),  # when the next step is or was chosen
        ("step_ends_at_s", "f8"),  # of the step that runs; inf where none does
        ("next_step_ends_at_s", "f8"),
        (
            "num_decode_steps",
            "i8",
        ),  # the last so many steps chosen give a token to each, and they are the same
        ("horizon_step", "i8"),  # the first step that may be unlike the last one
        ("looks_from_step", "i8"),  # when to find the horizon
        # what it counted since time 0
        ("num_queried_tokens", "i8"),
        ("num_hit_tokens", "i8"),
        ("num_computed_tokens", "i8"),
        ("num_generated_tokens", "i8"),
        ("num_preemptions", "i8"),
        ("num_finished", "i8"),
        ("busy_s", "f8"),
    ]
)

REQUEST_DTYPE = np.dtype(
    [
        ("request_id", "i8"),
        ("num_prompt_tokens", "i8"),
        ("num_output_tokens", "i8"),  # owed
        ("num_generated_tokens", "i8"),  # done
        ("num_computed_tokens", "i8"),  # in the steps in flight too
        ("num_pending_tokens", "i8"),  # to come from the steps in flight: vLLM's num_output_placeholders
        ("last_sampling_step", "i8"),  # the last step chosen that generates a token of it
        ("num_scheduled_tokens", "i8"),  # in the step that is being chosen, once its turn has come
        ("num_held_blocks", "i8"),
        ("num_cached_blocks", "i8"),  # of the held ones, those entered in the prefix cache
        ("num_cached_tokens", "i8"),  # prefix hit at first admission
        ("num_preemptions", "i8"),
        ("first_hash", "i8"),  # into State.hashes
        ("num_hashes", "i8"),  # 0 in a free slot
        ("row", "i8"),  # into State.block_table; NONE while waiting
        ("next_waiting", "i8"),
        ("prev_waiting", "i8"),  # these two in a heap only
        ("first_behind", "i8"),
        ("next_stale", "i8"),
        ("priority", "i8"),
        ("arrived_at_s", "f8"),
        ("first_token_at_s", "f8"),
    ]
)

BLOCK_DTYPE = np.dtype([("place", "i4"), ("num_refs", "i4"), ("kind", "i4")])
"""A block; ``place`` is its index in ``State.free_queue`` and means something without references only.
Records are small because touching all blocks in turn is most of the emulator's work."""

UNCACHED, PRIVATE, CACHED = 0, 1, 2
"""Kinds of blocks. A private block is full, and only its own request could ask for its content again: it
keeps its place in the eviction order like any cached block, but enters the prefix cache only if its request
is preempted."""

BRANCHES, LOOSE, TWIN, YOUNGER = 4, 8, 16, 32
"""Marks of a cached block, added to its kind: the table may hold children of it; it is in the table itself,
though not the first of its prefix; other blocks are cached under its hash; one of those is older."""

CACHED_BLOCK_DTYPE = np.dtype([("block_hash", "i8"), ("parent", "i4"), ("child", "i4")])
"""What a cached block is cached under, and how it is found (``envs.emulator.prefix_cache``). Parent and child
are of each other; the parent is ``NONE`` for a block in the table. A younger twin has neither."""

TWIN_DTYPE = np.dtype([("prev", "i4"), ("next", "i4")])
"""Blocks of one hash, in a ring from the oldest to the newest."""

CACHE_SLOT_DTYPE = np.dtype([("block_hash", "i8"), ("block", "i8")])
"""Open-addressing table: hash -> oldest block cached under it, where that is no child. ``NO_HASH`` marks
an empty slot."""

NO_HASH = 0

EVENT_DTYPE = np.dtype(
    [
        ("at_s", "f8"),
        ("slot", "i8"),
        ("instance", "i8"),
        ("is_completion", "?"),
    ]
)
"""A first token or a completion. Completed slots stay filled until their event is taken."""

STEP_DTYPE = np.dtype(
    [
        ("instance", "i8"),
        ("step", "i8"),
        ("scheduled_at_s", "f8"),
        ("starts_at_s", "f8"),
        ("ends_at_s", "f8"),
        ("request_id", "i8"),
        ("num_scheduled_tokens", "i8"),
        ("num_computed_before", "i8"),
        ("num_held_blocks", "i8"),
        ("num_free_blocks", "i8"),
        ("kind", "i8"),  # RUNNING, NEW, RESUMED or PREEMPTED
    ]
)
"""One request's part in one scheduler step; the rows of a step come in the order of scheduling."""

RUNNING, NEW, RESUMED, PREEMPTED = 0, 1, 2, 3


class State(NamedTuple):
    """Everything an emulated cluster is made of."""

    instances: NDArray[np.void]
    """INSTANCE_DTYPE ``[num_instances]``."""
    requests: NDArray[np.void]
    """REQUEST_DTYPE ``[num_slots]``."""
    blocks: NDArray[np.void]
    """BLOCK_DTYPE ``[total blocks]``."""
    free_queue: NDArray[np.int32]
    """``[total places]``: unreferenced blocks, ``NONE`` in a gap."""
    cached_blocks: NDArray[np.void]
    """CACHED_BLOCK_DTYPE ``[total blocks]``."""
    twins: NDArray[np.void]
    """TWIN_DTYPE ``[total blocks]``."""
    cache_slots: NDArray[np.void]
    """CACHE_SLOT_DTYPE ``[total cache slots]``."""
    block_table: NDArray[np.int32]
    """``[total rows, blocks of the longest request]``: the blocks each running request holds."""
    running: NDArray[np.int64]
    """``[total rows]``: request slots in scheduling order, ``max_num_seqs`` places per instance."""
    next_alike: NDArray[np.int64]
    """``[total rows]``: while steps are skipped, the next place in ``running`` that needs a block when this
    one does."""
    free_rows: NDArray[np.int64]
    """``[total rows]``: a stack of unused block-table rows per instance."""
    free_slots: NDArray[np.int64]
    """``[num_slots]``: a stack of the request slots not in use."""
    hashes: NDArray[np.int64]
    """Block hashes of the requests in flight, each request's in one piece."""
    events: NDArray[np.void]
    """EVENT_DTYPE; room for two per request in flight."""
    step_log: NDArray[np.void]
    """STEP_DTYPE; of length 0 where no log is kept."""
    wakes_at_s: NDArray[np.float64]
    """``[num_instances]``: before this instant nothing happens on an instance but that requests get tokens
    and blocks. Who changes an instance from outside brings it up to date first, and sets this to the
    present."""
    counts: NDArray[np.int64]
    """``[4]``: events and step-log rows written so far, slots free, places of ``hashes`` used."""


NUM_EVENTS, NUM_STEP_ROWS, NUM_FREE_SLOTS, NUM_HASHES = 0, 1, 2, 3
