"""Traces in our own format: any ``Trace``, however it was made, as one Parquet file.

    stored.save(trace, "requests.parquet")
    stream = stored.workload("requests.parquet")

One row per request: the columns of ``envs.workload.trace.Trace``, with its content ids as a list. The size of
a content id and the notes lie in the file's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.unfinished import whole
from envs.workload.replay import Replay, Start
from envs.workload.settings import slo_of
from envs.workload.shaping import Part, shaped
from envs.workload.trace import Trace

KEY = b"routegym.trace"
COLUMNS = (
    "arrived_at_s",
    "num_prompt_tokens",
    "num_output_tokens",
    "session_id",
    "turn",
    "tenant",
    "source_row",
)
"""Besides ``hash_ids``."""


def save(trace: Trace, path: str | Path) -> None:
    """Write a trace to a file that ``load`` reads; whole or not at all."""
    columns = {name: getattr(trace, name) for name in COLUMNS}
    columns["hash_ids"] = pa.LargeListArray.from_arrays(trace.hash_offsets, trace.hash_ids)
    about = {
        "hash_block_tokens": trace.hash_block_tokens,
        "num_skipped_lines": trace.num_skipped_lines,
        "notes": list(trace.notes),
    }
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(about).encode()})
    with whole(Path(path)) as part:
        pq.write_table(table, part, compression="zstd")


def load(path: str | Path) -> Trace:
    """Read a trace. Raises ``ValueError`` naming the file and what is wrong with it."""
    try:
        if not Path(path).is_file():
            raise ValueError("there is no such file")
        table = pq.read_table(path)
        if KEY not in (table.schema.metadata or {}):
            raise ValueError(
                f"{KEY.decode()} is not in its metadata: write it with envs.workload.stored.save"
            )
        about = json.loads(table.schema.metadata[KEY])
        hashes = table["hash_ids"].combine_chunks()
        offsets = np.concatenate(([0], np.cumsum(hashes.value_lengths().to_numpy())))
        return Trace(
            hash_ids=hashes.flatten().to_numpy(),
            hash_offsets=offsets,
            hash_block_tokens=about["hash_block_tokens"],
            num_skipped_lines=about["num_skipped_lines"],
            notes=tuple(about["notes"]),
            **{name: table[name].to_numpy() for name in COLUMNS},
        )
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a stored trace that can be used ({error})") from error


def workload(
    path: str | None = None,
    *,
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
    """Replay a stored trace; ``conf/workload/stored.yaml`` explains every setting."""
    if path is None:
        raise ValueError("path is null: give the file of a trace, such as workload.path=requests.parquet")
    slo = slo_of(slo_ttft_s, slo_tpot_s)
    trace = shaped(
        load(path),
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
