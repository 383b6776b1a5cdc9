"""Mooncake traces (Qin et al., FAST'25): arrivals with prefix identity.

One JSON object a line: ``timestamp`` (ms from the start, quantised to 3 s), ``input_length``,
``output_length`` (tokens), ``hash_ids`` (chained 512-token blocks, one per begun block, global).
Format and statistics: https://github.com/kvcache-ai/Mooncake, commit 3b5a594.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np

from envs.workload.generator import generate
from envs.workload.lines import OnBadLine, parse_lines, token_count
from envs.workload.location import have, trace_path
from envs.workload.replay import Replay, Start
from envs.workload.settings import slo_of
from envs.workload.shaping import Part, shaped
from envs.workload.trace import Trace

HASH_BLOCK_TOKENS = 512
"""Tokens of one hash id, given by the format."""

DEFAULT_FILE = "mooncake/conversation_trace.jsonl"


def _parse(line: str) -> tuple[float, int, int, list[int]]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    missing = {"timestamp", "input_length", "output_length", "hash_ids"} - row.keys()
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    time_ms, ids = row["timestamp"], row["hash_ids"]
    if type(time_ms) not in (int, float) or not 0 <= time_ms < float("inf"):
        raise ValueError(f"timestamp must be a number from 0, not {time_ms!r}")
    num_prompt = token_count(row["input_length"], "input_length")
    num_output = token_count(row["output_length"], "output_length")
    if not isinstance(ids, list) or any(type(i) is not int or not 0 <= i < 2**48 for i in ids):
        raise ValueError("hash_ids must be a list of whole numbers from 0")
    if len(ids) != -(-num_prompt // HASH_BLOCK_TOKENS):
        raise ValueError(
            f"{len(ids)} hash_ids for {num_prompt} tokens, one per begun {HASH_BLOCK_TOKENS} expected"
        )
    return time_ms / 1000.0, num_prompt, num_output, ids


def load(
    path: str | Path, *, jitter_s: float = 3.0, seed: int = 0, on_bad_line: OnBadLine = "error"
) -> Trace:
    """Read a Mooncake file.

    Arrivals are recorded in steps of 3 s: each gets a uniform jitter over [0, jitter_s) drawn from ``seed``
    (0: replay the comb of bursts raw), then all are sorted stably. Raises ``ValueError`` for a malformed
    line (one out of order in the file, too), naming it, or skips and counts it.
    """
    if not 0.0 <= jitter_s < float("inf"):
        raise ValueError(f"jitter_s is {jitter_s}: it must be a number of seconds from 0 (0: none)")
    path = Path(path)
    with path.open("rb") as lines:
        rows, num_skipped = parse_lines(path, enumerate(lines, start=1), _parse, on_bad_line)
    times = np.array([row[0] for row in rows])
    times += np.random.default_rng(seed).uniform(0.0, jitter_s, len(rows))
    order = np.argsort(times, kind="stable")
    rows = [rows[i] for i in order]
    notes = [f"Mooncake {path.name}", f"jitter {jitter_s:g} s, seed {seed}" if jitter_s else "no jitter"]
    if num_skipped:
        notes.append(f"{num_skipped} malformed lines skipped")
    return Trace(
        arrived_at_s=times[order],
        num_prompt_tokens=np.array([row[1] for row in rows]),
        num_output_tokens=np.array([row[2] for row in rows]),
        hash_ids=np.array([i for row in rows for i in row[3]], np.int64),
        hash_offsets=np.cumsum([0] + [len(row[3]) for row in rows]),
        hash_block_tokens=HASH_BLOCK_TOKENS,
        source_row=order,
        num_skipped_lines=num_skipped,
        notes=tuple(notes),
    )


def workload(
    path: str | None = None,
    *,
    on_missing: Literal["error", "generate"] = "error",
    on_bad_line: OnBadLine = "error",
    jitter_s: float = 3.0,
    seed: int = 0,
    part: Part = "all",
    frac_train: float = 0.7,
    window_start_s: float = 0.0,
    window_stop_s: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    max_model_len: int | None = None,
    num_repeats: int = 1,
    rate_factor: float = 1.0,
    rate_per_s: float | None = None,
    num_requests: int | None = None,
    start: Start = "first",
    block_size: int = 16,
    slo_ttft_s: float = 2.0,
    slo_tpot_s: float = 0.1,
) -> Replay:
    """Replay a Mooncake trace; ``conf/workload/mooncake.yaml`` explains every setting.

    With ``on_missing`` "generate" and no path given, an absent trace is replaced by the generator at its
    published statistics, and the notes say so. A path that was given must exist.
    """
    slo = slo_of(slo_ttft_s, slo_tpot_s)
    if on_missing not in ("error", "generate"):
        raise ValueError(f"on_missing is {on_missing!r}: choose 'error' or 'generate'")
    if path is None and on_missing == "generate" and not have(DEFAULT_FILE):
        trace = generate(np.random.default_rng(seed))
        trace = trace.noted("stands in for the absent Mooncake conversation trace")
    else:
        file = Path(path) if path is not None else trace_path(DEFAULT_FILE)
        trace = load(file, jitter_s=jitter_s, seed=seed, on_bad_line=on_bad_line)
    trace = shaped(
        trace,
        part=part,
        frac_train=frac_train,
        window_start_s=window_start_s,
        window_stop_s=window_stop_s,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        max_model_len=max_model_len,
        num_repeats=num_repeats,
        rate_factor=rate_factor,
        rate_per_s=rate_per_s,
    )
    return Replay(trace, block_size=block_size, num_requests=num_requests, start=start, slo=slo)
