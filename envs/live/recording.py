"""A recording on disk: what each decision saw and said, and what became of it.

    DIRECTORY/recording.json              the features' names and schema hash, the instances' traits, versions
    DIRECTORY/decisions/000000.parquet    one row per decision, in order
    DIRECTORY/outcomes/000000.parquet     one row per outcome, in the order in which they became known

Decisions and outcomes are two tables, joined by ``episode`` and ``decision_id``, because an outcome comes
long after its decision: so nothing waits in memory for it, and a decision is on disk with its part whatever
becomes of the request. Parts are numbered and whole, or not there; a last part of decisions without its
outcomes is what a writer left that was killed between the two files. Pages have checksums.

    recording = Recording("runs/demo/evaluation/recordings/random-0")
    decisions, outcomes = recording.decisions(), recording.outcomes()      # Arrow tables

``envs.live.recorder`` writes them, ``envs.workload.recording`` replays them, ``envs.live.offline`` makes
datasets of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envs.feedback import Feedback
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

FORMAT = 1
HEADER = "recording.json"
DECISIONS, OUTCOMES = "decisions", "outcomes"
_NEEDED = ("schema_hash", "max_instances", "instances", "versions")
"""Keys without which a header is none."""
_COMPARED = ("schema_hash", "max_instances", "instances")
_NOT_COMPARED = "num_blocks"
"""Of an instance: vLLM profiles its memory at each start, and has some blocks more or less."""
PART = ".part"
"""Ending of files not yet whole; their names begin with a dot."""

OnBadPart = Literal["error", "skip"]


class RecordingError(ValueError):
    """A directory that holds no recording, another one, or a damaged one; the message names it."""


def decisions_schema(max_instances: int) -> pa.Schema:
    """Columns of a decision.

    ``instances`` (instance-major), ``request`` and ``mask`` are its observation, ``scores`` and
    ``propensities`` what the policy thought of each instance; then comes the request itself, as it is on
    ``envs.cluster.Request``, with what is hidden from policies. ``at_s`` is the instant of the decision.
    """

    def each(dtype: pa.DataType, size: int) -> pa.DataType:
        return pa.list_(dtype, size)

    return pa.schema(
        {
            "episode": pa.int64(),
            "decision_id": pa.int64(),
            "seed": pa.int64(),
            "policy_version": pa.string(),
            "num_outcomes_learned": pa.int64(),
            "at_s": pa.float64(),
            "router": pa.int64(),
            "instance": pa.int64(),
            "request_id": pa.int64(),
            "arrived_at_s": pa.float64(),
            "num_prompt_tokens": pa.int64(),
            "num_output_tokens": pa.int64(),
            "session_id": pa.int64(),
            "turn": pa.int64(),
            "tenant": pa.int64(),
            "model": pa.string(),
            "slo_ttft_s": pa.float64(),
            "slo_tpot_s": pa.float64(),
            "priority": pa.int64(),
            "block_hashes": pa.list_(pa.int64()),
            "instances": each(pa.float32(), max_instances * len(INSTANCE_FEATURES)),
            "request": each(pa.float32(), len(REQUEST_FEATURES)),
            "mask": each(pa.int8(), max_instances),
            "scores": each(pa.float64(), max_instances),
            "propensities": each(pa.float64(), max_instances),
        }
    )


_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}

OUTCOMES_SCHEMA = pa.schema(
    {
        "episode": pa.int64(),
        "observed_at_s": pa.float64(),
        "is_last": pa.bool_(),
        **{name: _ARROW[kind] for name, kind in get_type_hints(Feedback).items()},
    }
)
"""Columns of an outcome: those of ``Feedback``, the instant at which the policy was told, and whether it was
the last one of an episode played to its end."""


def part_name(number: int) -> str:
    """File name of a part."""
    return f"{number:06d}.parquet"


def part_numbers(folder: Path) -> list[int]:
    """Numbers of the whole parts in a folder, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.parquet") if path.stem.isdecimal())


def read_part(path: Path, schema: pa.Schema) -> pa.Table:
    """These columns of a part. Raises ``RecordingError`` where it is not as it was written."""
    try:
        held = pq.read_schema(path)
        for field in schema:
            if field.name not in held.names or held.field(field.name).type != field.type:
                raise ValueError(f"column {field.name} is not the {field.type} that {HEADER} tells of")
        table = pq.read_table(path, columns=schema.names, partitioning=None, page_checksum_verification=True)
        return table.select(schema.names)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: not a whole part of a recording ({error})") from error


def read_header(directory: Path) -> dict[str, Any]:
    """``recording.json``. Raises ``RecordingError`` where there is none, or none of this format."""
    path = directory / HEADER
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordingError(
            f"{directory} holds no recording ({HEADER} is missing): give the directory that a recorder wrote,"
            " such as runs/NAME/evaluation/recordings/POLICY-SEED"
        ) from error
    except (ValueError, OSError) as error:
        raise RecordingError(f"{path}: not a recording's header ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise RecordingError(f"{path}: its format is {found!r}, this version reads {FORMAT}")
    missing = [key for key in _NEEDED if key not in header]
    if missing:
        raise RecordingError(
            f"{path} has no {', '.join(missing)}: bring back the one that its recorder wrote"
        )
    num, instances = header["max_instances"], header["instances"]
    if type(num) is not int or num < 1:
        raise RecordingError(f"{path}: max_instances is {num!r}, it must be a number from 1")
    if not isinstance(instances, list) or not instances:
        raise RecordingError(f"{path}: instances is {instances!r}, it must be a list of instances")
    for each in instances:
        size = each.get("block_size") if isinstance(each, dict) else None
        if type(size) is not int or size < 1:
            raise RecordingError(f"{path}: an instance is {each!r}, it must have a block_size from 1")
    return header


def difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what the cluster or the features of two headers differ; empty where they do not."""
    for key in _COMPARED:
        there, here = held[key], wanted[key]
        if key == "instances":
            if len(there) != len(here):
                return f"the number of instances is {len(there)} there and {len(here)} here"
            for old, new in zip(there, here, strict=True):
                for name, value in new.items():
                    if name != _NOT_COMPARED and old.get(name) != value:
                        of = f"{name} of instance {new.get('name')}"
                        return f"{of} is {old.get(name)!r} there and {value!r} here"
        elif there != here:
            return f"{key} is {there!r} there and {here!r} here"
    return ""


class Recording:
    """A recording to be read.

    Args:
        directory: Of the recording.
        on_bad_part: What a part that cannot be read, or is missing, is: an ``error`` that names it, or a
            thing to ``skip`` and count in ``num_skipped_parts``.
    """

    def __init__(self, directory: str | Path, on_bad_part: OnBadPart = "error") -> None:
        if on_bad_part not in ("error", "skip"):
            raise ValueError(f"on_bad_part is {on_bad_part!r}: choose 'error' or 'skip'")
        self.directory = Path(directory)
        self.header = read_header(self.directory)
        self.num_skipped_parts = 0
        self._on_bad_part = on_bad_part
        self._schema = decisions_schema(self.header["max_instances"])

    @property
    def block_size(self) -> int:
        """Tokens per block hash of the requests."""
        return int(self.header["instances"][0]["block_size"])

    def decisions(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The decisions of all episodes in order, of all columns or of these. Empty where there is none."""
        return self._table(DECISIONS, self._schema, columns)

    def outcomes(self) -> pa.Table:
        """The outcomes of all episodes, in order of their decisions."""
        return self._table(OUTCOMES, OUTCOMES_SCHEMA, None)

    def _table(self, name: str, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
        if columns is not None:
            keys = [key for key in ("episode", "decision_id") if key not in columns]
            schema = pa.schema([schema.field(column) for column in [*keys, *columns]])
        folder = self.directory / name
        held = [number for each in (DECISIONS, OUTCOMES) for number in part_numbers(self.directory / each)]
        numbers = list(range(max(held, default=-1) + 1))  # a missing one shall be named
        if name == OUTCOMES and numbers and not (folder / part_name(numbers[-1])).exists():
            numbers.pop()  # its writer was killed before it wrote them
        tables = [table for number in numbers if (table := self._part(folder / part_name(number), schema))]
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        return table.take(pa.array(_in_order(table)))

    def _part(self, path: Path, schema: pa.Schema) -> pa.Table | None:
        try:
            return read_part(path, schema)
        except RecordingError as error:
            if self._on_bad_part == "skip":
                self.num_skipped_parts += 1
                return None
            raise RecordingError(f"{error}; mend it, or on_bad_part='skip'") from error


def _in_order(table: pa.Table) -> NDArray[np.int64]:
    """Rows by episode and decision. Of a decision that a run taken up again made anew, the last one."""
    episode, decision_id = table["episode"].to_numpy(), table["decision_id"].to_numpy()
    order = np.lexsort((np.arange(len(episode)), decision_id, episode))
    episode, decision_id = episode[order], decision_id[order]
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = (np.diff(episode) != 0) | (np.diff(decision_id) != 0)
    kept: NDArray[np.int64] = order[is_last]
    return kept


def matrix(table: pa.Table, column: str, *shape: int) -> NDArray[Any]:
    """A column of lists of one length as an array, ``[num_rows, *shape]``."""
    values: NDArray[Any] = table[column].combine_chunks().flatten().to_numpy()
    return values.reshape(len(table), *shape)
