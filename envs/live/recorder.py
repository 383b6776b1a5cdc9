"""Records every decision and what became of it, to files that a crash cannot damage.

    with Recorder("recordings/mine", env.cluster.traits, max_instances, "mine@0f3a") as recorder:
        recorder.begin_episode(seed)
        while not over:
            decision = policy.act(observation)
            recorder.decided(env.request, observation, decision.instance, decision.propensities,
                             decision.scores, env.cluster.now_s)
            observation, _, over, _, info = env.step(decision.instance)
            recorder.learned(info["completions"], env.cluster.now_s, over)

``agents.rollout.play`` does this. ``envs.live.recording`` says what lies where.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envs.cluster import InstanceTraits, Request
from envs.feedback import Feedback
from envs.live.recording import (
    DECISIONS,
    FORMAT,
    HEADER,
    OUTCOMES,
    OUTCOMES_SCHEMA,
    PART,
    RecordingError,
    decisions_schema,
    difference,
    part_name,
    part_numbers,
    read_header,
    read_part,
)
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES, SCHEMA_HASH, Observation
from envs.taken import take

MAX_HASHES = 2**22
"""Block hashes in one part, 32 MiB: a bound on memory where prompts are long."""
_MATRICES = ("instances", "request", "mask", "scores", "propensities")
_TEXTS = ["policy_version", "model", "failure"]


class Recorder:
    """Writes a recording, part by part.

    A part is written whole, flushed to disk and renamed, once it has ``rows_per_part`` decisions or outcomes
    or its first decision is ``seconds_per_part`` old: a crash loses the open part and nothing else. The
    caller waits for a part to be written, some 10 to 100 ms. A directory that holds a recording of the same
    cluster is continued with further episodes; what is there is never written over. Of the same cluster: with
    the same instances, but for their ``num_blocks``.

    Args:
        directory: Of the recording; made if need be.
        traits: Of the cluster's instances.
        max_instances: Rows of an observation.
        policy_version: Which policy decides, made of what.
        rows_per_part: See above.
        seconds_per_part: See above, by the clock of this machine; looked at whenever a decision is recorded.

    Raises:
        RecordingError: The directory holds a recording of another schema or cluster (names what differs), or
            another process records there.
        OSError: The directory cannot be written.
    """

    def __init__(
        self,
        directory: str | Path,
        traits: Sequence[InstanceTraits],
        max_instances: int,
        policy_version: str,
        rows_per_part: int = 4096,
        seconds_per_part: float = 60.0,
    ) -> None:
        if rows_per_part < 1 or not seconds_per_part > 0:
            raise ValueError(
                f"rows_per_part ({rows_per_part}) must be at least 1 and seconds_per_part"
                f" ({seconds_per_part}) more than 0"
            )
        self.directory, self.policy_version = Path(directory), policy_version
        self._rows_per_part, self._seconds_per_part = rows_per_part, seconds_per_part
        self._schema = decisions_schema(max_instances)
        self._matrices = {
            name: np.empty(
                (rows_per_part, self._schema.field(name).type.list_size),
                self._schema.field(name).type.value_type.to_pandas_dtype(),
            )
            for name in _MATRICES
        }
        self._episode, self._seed, self._num_decided, self._is_open = -1, -1, 0, False
        self._clear()
        self._lock = _opened(self.directory)
        try:
            self._take_up(_header(traits, max_instances))
        except BaseException:
            os.close(self._lock)
            raise

    def _take_up(self, header: dict[str, Any]) -> None:
        """Go on after what is there; begin where nothing is."""
        folders = [self.directory / name for name in (DECISIONS, OUTCOMES)]
        numbers = [number for folder in folders for number in part_numbers(folder)]
        self._part = max(numbers, default=-1) + 1
        if not (self.directory / HEADER).exists() and not numbers:
            for folder in folders:
                self._guarded(folder, partial(folder.mkdir, exist_ok=True))
            text = json.dumps(header, indent=2) + "\n"
            self._write(self.directory / HEADER, lambda path: path.write_text(text, encoding="utf-8"))
            return
        held = read_header(self.directory)
        if differs := difference(held, header):
            raise RecordingError(
                f"{self.directory} holds a recording of another kind ({differs}):"
                " record into another directory, or move that one away"
            )
        for folder in folders:
            for path in folder.glob(f".*{PART}"):  # of a writer that was killed: nobody else writes here
                path.unlink(missing_ok=True)
        if numbers and self._part - 1 not in part_numbers(folders[1]):
            # Its writer was killed before it wrote them; once more follows, a part that is missing was lost.
            self._write_part(folders[1] / part_name(self._part - 1), OUTCOMES_SCHEMA.empty_table())
        if part_numbers(folders[0]):
            path = folders[0] / part_name(part_numbers(folders[0])[-1])
            keys = ("episode", "seed", "decision_id")
            last = read_part(path, pa.schema([self._schema.field(key) for key in keys]))
            self._episode = int(last["episode"][-1].as_py())
            self._seed = int(last["seed"][-1].as_py())
            self._num_decided = int(last["decision_id"][-1].as_py()) + 1

    def begin_episode(self, seed: int, num_replayed: int = 0) -> None:
        """Begin the episode of ``seed``, at its decision ``num_replayed``.

        A run that was killed makes the episode's first decisions again without asking the policy. The
        recording then goes on with its last episode, if that is this one and has them; else with a new one.
        """
        goes_on = 0 < num_replayed <= self._num_decided and seed == self._seed
        self._episode += not goes_on
        self._seed, self._num_decided, self._is_open = seed, num_replayed, True

    def decided(
        self,
        request: Request,
        observation: Observation,
        instance: int,
        propensities: NDArray[np.float64],
        scores: NDArray[np.float64],
        at_s: float,
        router: int = 0,
        num_outcomes_learned: int = 0,
    ) -> None:
        """Take the episode's next decision.

        Args:
            request: What was routed.
            observation: What the policy saw of it and of the fleet; copied.
            instance: Where it goes.
            propensities: With what probability it would have gone to each instance.
            scores: What the policy thought of each.
            at_s: Instant of the decision.
            router: On which the request landed.
            num_outcomes_learned: Outcomes told to the policy, all routers together, if it learns of them.
        """
        if not self._is_open:
            raise RuntimeError("no episode is under way: call begin_episode first")
        row, matrices = len(self._decisions), self._matrices
        if row == 0:
            self._began_s = monotonic()
        matrices["instances"][row] = observation["instances"].ravel()
        matrices["request"][row] = observation["request"]
        matrices["mask"][row] = observation["mask"]
        matrices["scores"][row] = scores
        matrices["propensities"][row] = propensities
        self._hashes.append(request.block_hashes)
        self._num_hashes += len(request.block_hashes)
        self._decisions.append(
            (
                self._episode,
                self._num_decided,
                self._seed,
                self.policy_version,
                num_outcomes_learned,
                at_s,
                router,
                instance,
                request.request_id,
                request.arrived_at_s,
                request.num_prompt_tokens,
                request.num_output_tokens,
                request.session_id,
                request.turn,
                request.tenant,
                request.model,
                request.slo.ttft_s,
                request.slo.tpot_s,
                request.priority,
            )
        )
        self._num_decided += 1
        if (
            row + 1 == self._rows_per_part
            or len(self._outcomes) >= self._rows_per_part
            or self._num_hashes >= MAX_HASHES
            or monotonic() - self._began_s >= self._seconds_per_part
        ):
            self.flush()

    def learned(self, outcomes: Sequence[Feedback], at_s: float, is_over: bool) -> None:
        """Take outcomes that became known at ``at_s``; ``is_over``: they are the last of the episode."""
        episode = self._episode
        for feedback in outcomes:
            self._outcomes.append((episode, at_s, False, *feedback))
        if is_over:
            self._is_open = False
            if outcomes:
                self._outcomes[-1] = (episode, at_s, True, *outcomes[-1])

    def flush(self) -> None:
        """Write the open part. Raises ``OSError`` naming the file, after which nothing more is written."""
        decisions, outcomes = self._decisions, self._outcomes
        if not decisions and not outcomes:
            return
        name = part_name(self._part)
        tables = {DECISIONS: self._decisions_table(), OUTCOMES: _table(outcomes, OUTCOMES_SCHEMA)}
        self._clear()  # what cannot be written now is not tried again
        self._part += 1
        for folder, table in tables.items():
            self._write_part(self.directory / folder / name, table)

    def close(self) -> None:
        """Write the open part and let others record here."""
        if self._lock < 0:
            return
        try:
            self.flush()
        finally:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _clear(self) -> None:
        self._decisions: list[tuple[Any, ...]] = []
        self._outcomes: list[tuple[Any, ...]] = []
        self._hashes: list[NDArray[np.int64]] = []
        self._num_hashes, self._began_s = 0, 0.0

    def _decisions_table(self) -> pa.Table:
        num = len(self._decisions)
        names = [name for name in self._schema.names if name not in (*_MATRICES, "block_hashes")]
        scalars = _table(self._decisions, pa.schema([self._schema.field(name) for name in names]))
        hashes = self._hashes[:num]  # Ctrl-C may have come within a decision
        offsets = np.cumsum([0, *(len(blocks) for blocks in hashes)], dtype=np.int32)
        flat = np.concatenate(hashes) if hashes else np.empty(0, np.int64)
        columns = {
            **{name: scalars[name] for name in names},
            "block_hashes": pa.ListArray.from_arrays(offsets, flat),
        }
        for name, values in self._matrices.items():
            column = pa.array(values[:num].ravel())
            columns[name] = pa.FixedSizeListArray.from_arrays(column, values.shape[1])
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)

    def _write_part(self, path: Path, table: pa.Table) -> None:
        options = {
            "compression": "zstd",
            "compression_level": 1,
            "use_dictionary": [column for column in _TEXTS if column in table.column_names],
            "write_page_checksum": True,
        }
        self._write(path, partial(pq.write_table, table, **options))

    def _write(self, path: Path, write_to: Callable[[Path], object]) -> None:
        """Fill a temporary file, flush it to disk, rename it."""
        temporary = path.with_name(f".{path.name}{PART}")

        def write() -> None:
            try:
                write_to(temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.rename(path)
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            finally:
                temporary.unlink(missing_ok=True)

        self._guarded(path, write)

    def _guarded(self, path: Path, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            raise OSError(
                f"cannot record to {path}: {error.strerror or error}; what was recorded before is whole. Make"
                " room there, or record elsewhere"
            ) from error


def remove_recording(directory: Path) -> None:
    """Remove a recording if it is there. Raises ``RecordingError`` while another process records there."""
    if directory.exists():
        lock = _opened(directory)
        try:
            shutil.rmtree(directory)
        finally:
            os.close(lock)


def _opened(directory: Path) -> int:
    """Make the directory and take it for this process alone."""
    try:
        return take(directory)
    except BlockingIOError as error:
        raise RecordingError(
            f"another recorder is writing to {directory}: wait for it, or give another directory"
        ) from error
    except OSError as error:
        raise OSError(
            f"cannot record to {directory}: {error.strerror}; give a directory that can be written"
        ) from error


def _header(traits: Sequence[InstanceTraits], max_instances: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema_hash": SCHEMA_HASH,
        "instance_features": [feature.name for feature in INSTANCE_FEATURES],
        "request_features": [feature.name for feature in REQUEST_FEATURES],
        "max_instances": max_instances,
        "instances": [asdict(trait) for trait in traits],
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("routegym", "gymnasium", "numpy", "pyarrow")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a tree that is not installed
        return "unknown"


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
