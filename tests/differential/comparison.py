"""Find the first step that differs, and the smallest scenario that still differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from .scenario import FIELDS, Scenario

Rows = dict[str, Any]
"""``{"num_steps": n, "rows": [...]}``, each row of ``COLUMNS``."""

COLUMNS = (
    "[step, [[id, kind, tokens, computed before, blocks held], ...], preempted, free blocks, finished,"
    " [gauges: running, waiting, blocks used]]"
)


def difference(ours: Rows, vllms: Rows) -> str | None:
    """Both versions of the first row that differs, or None."""
    pairs = zip([*ours["rows"], None], [*vllms["rows"], None], strict=False)
    for mine, its in pairs:
        if mine != its:
            return f"{COLUMNS}\nvLLM {its}\nours {mine}"
    if ours["num_steps"] != vllms["num_steps"]:
        return f"vLLM took {vllms['num_steps']} steps, we {ours['num_steps']}"
    return None


def shrunk(scenario: Scenario, differs: Callable[[Scenario], bool], max_tries: int = 2000) -> Scenario:
    """Simplify a scenario that differs, greedily, for as long as it still does."""
    tries = 0
    simpler = True
    while simpler:
        simpler = False
        for candidate in _simpler(scenario):
            tries += 1
            if tries > max_tries:
                return scenario
            if differs(candidate):
                scenario, simpler = candidate, True
                break
    return scenario


def _simpler(scenario: Scenario) -> Iterator[Scenario]:
    requests, options = scenario["requests"], scenario["options"]
    size = len(requests) // 2
    while size:  # fewer requests
        for first in range(0, len(requests), size):
            if len(requests) > size:
                yield {**scenario, "requests": requests[:first] + requests[first + size :]}
        size //= 2
    defaults = {"watermark": 0.0, "long_prefill_token_threshold": 0, "scheduler_reserve_full_isl": True}
    for key, value in {**defaults, "prefix_caching": False, "async_scheduling": False}.items():
        if options[key] != value:
            yield {**scenario, "options": {**options, key: value}}
    for field in ("num_shared", "is_hashed", "family", "at_step", "num_output", "num_prompt", "priority"):
        column, least = FIELDS.index(field), int(field in ("num_output", "num_prompt"))
        for number, row in enumerate(requests):
            for value in sorted({least, row[column] // 2, row[column] - 1}):
                if least <= value < row[column]:
                    smaller = [*row[:column], value, *row[column + 1 :]]
                    yield {**scenario, "requests": [*requests[:number], smaller, *requests[number + 1 :]]}


def report(scenario: Scenario, message: str) -> str:
    """A mismatch, to be read by a person."""
    head = json.dumps({"options": scenario["options"]})[1:-1]
    body = "\n".join(f"  {number}: {row}" for number, row in enumerate(scenario["requests"]))
    return f"{head}\nrequests, each {', '.join(FIELDS)}:\n{body}\n{message}"
