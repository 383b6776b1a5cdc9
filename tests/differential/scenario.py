"""Scenarios as plain JSON: one instance's options, and requests that arrive at its scheduler's steps.

    {"options": {"block_size": 4, "num_blocks": 9, ...}, "requests": [[0, 1.0, 0, 12, 5, 0, 8, 1], ...]}

A request is a row of ``FIELDS``; its id is its place. It reaches the scheduler before the call of
``schedule`` numbered ``at_step``, or before the first later one that a request can meet: under asynchronous
scheduling an idle engine makes two calls at one instant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Scenario = dict[str, Any]


class Row(NamedTuple):
    """One request."""

    at_step: int
    arrived: float
    """Arrival time as the scheduler is told it; not always in the order of ``at_step``."""
    priority: int
    num_prompt: int
    num_output: int
    family: int
    num_shared: int
    """Tokens of prompt + answer that are those of its family; the others are its own."""
    is_hashed: int
    """Whether the emulator gets hashes of its own blocks too, on through the answer."""


FIELDS = Row._fields


def rows(scenario: Scenario) -> list[Row]:
    """The scenario's requests."""
    return [Row(*row) for row in scenario["requests"]]


def tokens(number: int, row: Row) -> list[int]:
    """Token ids of a request's prompt and answer."""
    num = row.num_prompt + row.num_output
    num_shared = min(row.num_shared, num if row.is_hashed else row.num_prompt)
    return [1_000_000 * (row.family + 1) + at for at in range(num_shared)] + [
        100_000_000 + 100_000 * number + at for at in range(num_shared, num)
    ]


def block_hashes(number: int, row: Row, block_size: int) -> list[int]:
    """What the emulator is told of the same tokens."""
    num = row.num_prompt + row.num_output
    num_shared = min(row.num_shared, num if row.is_hashed else row.num_prompt)
    return [
        1_000_000 * (row.family + 1) + at
        if (at + 1) * block_size <= num_shared
        else 10**8 * (number + 1) + at
        for at in range((num if row.is_hashed else num_shared) // block_size)
    ]


def random_scenario(rng: np.random.Generator, policy: str, async_scheduling: bool) -> Scenario:
    """Draw a scenario; about half of them are short of blocks."""

    def pick(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    block_size = pick(1, 4, 8, 16)
    max_model_len = pick(32, 64, 128) if block_size < 16 else pick(64, 128, 256)
    longest = -(-max_model_len // block_size)
    max_num_batched_tokens = pick(7, 16, 40, 100, 256)
    options = {
        "block_size": block_size,
        "num_blocks": longest + int(rng.integers(0, pick(2, 2, 8) * longest // 2)),
        "max_num_seqs": min(int(rng.integers(1, pick(5, 17))), max_num_batched_tokens),  # vLLM wants so
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len,
        "prefix_caching": bool(rng.random() < 0.8),
        "long_prefill_token_threshold": pick(0, 0, 0, 9, 30),
        "watermark": pick(0.0, 0.0, 0.0, 0.1, 0.25),
        "scheduler_reserve_full_isl": bool(rng.random() < 0.6),
        "policy": policy,
        "async_scheduling": async_scheduling,
    }
    num_requests = int(rng.integers(2, 33))
    num_steps = pick(1, 12, 12, 60)  # over which the requests arrive
    num_families, frac_hashed = pick(1, 3), pick(0.0, 0.3, 1.0)
    num_priorities, longest_answer = pick(1, 2, 5), pick(3, 30, 30, 80)
    at_steps = np.sort(rng.integers(0, num_steps, num_requests))
    arrivals = rng.permutation(num_requests) if rng.random() < 0.3 else np.arange(num_requests)
    requests = []
    for number in range(num_requests):
        num_prompt = int(rng.integers(1, max_model_len))
        num_output = int(rng.integers(1, longest_answer + 1))
        is_sharing = rng.random() < 0.7
        requests.append(
            list(
                Row(
                    at_step=int(at_steps[number]),
                    arrived=float(arrivals[number]),
                    priority=int(rng.integers(num_priorities)),
                    num_prompt=num_prompt,
                    num_output=num_output,
                    family=int(rng.integers(num_families)),
                    num_shared=int(rng.integers(0, num_prompt + num_output + 1)) if is_sharing else 0,
                    is_hashed=int(rng.random() < frac_hashed),
                )
            )
        )
    return {"options": options, "requests": requests}
