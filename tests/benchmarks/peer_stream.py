"""The request stream on which simulators are compared, and the forms in which each of them reads it.

Poisson arrivals at 5 requests a second for each instance, prompts of U[500, 1500] tokens and answers of
U[100, 300]. No two requests share a prefix: every 64-token block of every prompt has an id of its own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from envs.emulator.replay import Stream
from envs.workload.trace import Trace

NUM_INSTANCES = 8
COLUMNS = ("arrived_at_s", "num_prompt_tokens", "num_output_tokens", "hash_ids", "hash_offsets")
"""Of the trace: all that is not a default."""
VIDUR_DATE = "2023-08-21"
"""The day of which Vidur replays the requests, its default."""
REQUESTS_PER_S = 5.0
"""Of each instance: about two thirds of what an A100 with an 8B model keeps up with."""
HASH_BLOCK_TOKENS = 64
"""Prompt tokens of one content id; the last one of a prompt may stand for fewer."""


def make_trace(num_requests: int, num_instances: int = NUM_INSTANCES, seed: int = 0) -> Trace:
    """The first ``num_requests`` requests of a stream for so many instances."""
    rng = np.random.default_rng(seed)
    gaps_s = rng.exponential(1.0 / (REQUESTS_PER_S * num_instances), num_requests)
    num_prompt_tokens = rng.integers(500, 1501, num_requests)
    num_ids = -(-num_prompt_tokens // HASH_BLOCK_TOKENS)
    hash_offsets = np.concatenate([[0], np.cumsum(num_ids)])
    return Trace(
        arrived_at_s=np.cumsum(gaps_s),
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=rng.integers(100, 301, num_requests),
        hash_ids=np.arange(hash_offsets[-1]),
        hash_offsets=hash_offsets,
        hash_block_tokens=HASH_BLOCK_TOKENS,
    )


def as_stream(trace: Trace, block_size: int) -> Stream:
    """The trace for the bare loop, with a hash for every full block."""
    hashes, hash_offsets = trace.expanded(block_size)
    return Stream(trace.arrived_at_s, trace.num_prompt_tokens, trace.num_output_tokens, hashes, hash_offsets)


def pieces(num_requests: int, num_instances: int, block_size: int, num_each: int) -> Iterator[Stream]:
    """A long stream in pieces of ``num_each``, made as they are asked for; no two share a block."""
    now_s, num_ids = 0.0, 0
    for seed in range(num_requests // num_each):
        trace = make_trace(num_each, num_instances, seed)
        trace = Trace(
            arrived_at_s=trace.arrived_at_s + now_s,
            num_prompt_tokens=trace.num_prompt_tokens,
            num_output_tokens=trace.num_output_tokens,
            hash_ids=trace.hash_ids + num_ids,
            hash_offsets=trace.hash_offsets,
            hash_block_tokens=trace.hash_block_tokens,
        )
        now_s, num_ids = float(trace.arrived_at_s[-1]), num_ids + len(trace.hash_ids)
        yield as_stream(trace, block_size)


def write_npz(trace: Trace, path: Path) -> None:
    """The trace's columns, for our own process."""
    np.savez(path, **{name: getattr(trace, name) for name in COLUMNS})


def read_npz(path: Path) -> Trace:
    """What ``write_npz`` wrote."""
    with np.load(path) as columns:
        return Trace(**{name: columns[name] for name in COLUMNS}, hash_block_tokens=HASH_BLOCK_TOKENS)


def write_mooncake(trace: Trace, path: Path) -> None:
    """One JSON object a line: arrival in ms, lengths, and an id for each begun block of 64 tokens."""
    with path.open("w", encoding="utf-8") as file:
        for row in range(len(trace)):
            first, last = trace.hash_offsets[row : row + 2]
            request = {
                "timestamp": float(trace.arrived_at_s[row]) * 1e3,
                "input_length": int(trace.num_prompt_tokens[row]),
                "output_length": int(trace.num_output_tokens[row]),
                "hash_ids": trace.hash_ids[first:last].tolist(),
            }
            file.write(json.dumps(request) + "\n")


def write_vidur(trace: Trace, path: Path) -> None:
    """The CSV that Vidur 0.0.26 replays: a day that it asks for, arrival in s, prompt and answer tokens."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Date", "Time", "PromptTokenCount", "CompletionTokenCount"])
        columns = (trace.arrived_at_s, trace.num_prompt_tokens, trace.num_output_tokens)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            writer.writerow([VIDUR_DATE, *row])
