"""Recordings (``envs.live.recorder``) as workloads: the requests that came, when they came.

Each request comes once, at its arrival, however often it was sent; with the recorded answer length, session,
tenant, model, objective and priority, and the same blocks in common with others, past the prompt too.
Arrivals count from the first one. What was in closed loop when it was recorded is replayed in open loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from envs.cluster import Request, Slo
from envs.live.recording import OnBadPart, Recording, RecordingError
from envs.workload.block_hash import expand
from envs.workload.replay import Replay, Start
from envs.workload.shaping import Part, shaped
from envs.workload.trace import Integers, Trace


@dataclass(frozen=True)
class Recorded:
    """What a recording tells of its requests, in order of arrival; columns are ``[num_requests]``."""

    trace: Trace
    """With the content of the prompts' full blocks."""
    block_size: int
    content_ids: Integers
    """Of all full blocks whose content is known, flat, past the prompts too; equal ids = equal prefixes."""
    content_offsets: Integers
    """Request ``i`` owns ``content_ids[content_offsets[i] : content_offsets[i + 1]]``."""
    models: list[str]
    slos: list[Slo]
    priorities: list[int]


class RecordedReplay(Replay):
    """A ``Replay`` whose requests differ in model, objective or priority, or whose answers are known."""

    def __init__(self, recorded: Recorded, trace: Trace, num_requests: int | None, start: Start) -> None:
        super().__init__(trace, block_size=recorded.block_size, num_requests=num_requests, start=start)
        self._recorded = recorded
        self._source_row: list[int] = self.trace.source_row.tolist()
        self.hashes, self.hash_offsets = _hashes(recorded, self.trace)
        self._offsets = self.hash_offsets.tolist()

    def pop(self) -> Request:
        """Return the next request; ``RuntimeError`` after the last."""
        request, recorded = super().pop(), self._recorded
        row = self._source_row[self.first + request.request_id]
        return replace(
            request, model=recorded.models[row], slo=recorded.slos[row], priority=recorded.priorities[row]
        )


def load(path: str | Path, episode: int = 0, *, on_bad_part: OnBadPart = "error") -> Recorded:
    """Read the requests of one recorded episode.

    Raises ``RecordingError`` for a directory without a recording, a part of it that cannot be read or is
    missing (or skips and counts it) and an episode that is not there; each by name.
    """
    recording = Recording(path, on_bad_part)
    columns = [
        "request_id",
        "arrived_at_s",
        "num_prompt_tokens",
        "num_output_tokens",
        "session_id",
        "turn",
        "tenant",
        "model",
        "slo_ttft_s",
        "slo_tpot_s",
        "priority",
        "block_hashes",
    ]
    table = recording.decisions(columns)
    episodes = np.unique(table["episode"].to_numpy())
    if episode not in episodes:
        held = ", ".join(str(number) for number in episodes) or "none"
        raise RecordingError(f"{path} has no decision of episode {episode}: choose of its episodes ({held})")
    table = table.filter(pa.array(table["episode"].to_numpy() == episode))
    _, first_sent = np.unique(table["request_id"].to_numpy(), return_index=True)  # not those sent again
    arrived_at_s = table["arrived_at_s"].to_numpy()[first_sent]
    order = first_sent[np.argsort(arrived_at_s, kind="stable")]
    table = table.take(pa.array(order)).combine_chunks()

    def column(name: str) -> NDArray[np.int64]:
        values: NDArray[np.int64] = table[name].to_numpy()
        return values

    hashes = table["block_hashes"].combine_chunks()
    nums = hashes.value_lengths().to_numpy()
    offsets = np.concatenate(([0], np.cumsum(nums)))
    ids = np.unique(hashes.flatten().to_numpy(), return_inverse=True)[1].astype(np.int64)
    of_prompt = np.minimum(nums, column("num_prompt_tokens") // recording.block_size)
    in_prompt = np.arange(len(ids)) - np.repeat(offsets[:-1], nums) < np.repeat(of_prompt, nums)
    notes = [f"recording {path}, episode {episode}"]
    outcomes = recording.outcomes()
    if not (outcomes["is_last"].to_numpy() & (outcomes["episode"].to_numpy() == episode)).any():
        notes.append("which broke off")
    if recording.num_skipped_parts:
        notes.append(f"{recording.num_skipped_parts} unreadable parts skipped")
    times = np.sort(arrived_at_s)
    trace = Trace(
        arrived_at_s=times - times[0],
        num_prompt_tokens=column("num_prompt_tokens"),
        num_output_tokens=column("num_output_tokens"),
        session_id=column("session_id"),
        turn=column("turn"),
        tenant=column("tenant"),
        hash_ids=ids[in_prompt],
        hash_offsets=np.concatenate(([0], np.cumsum(of_prompt))),
        hash_block_tokens=recording.block_size,
        notes=tuple(notes),
    )
    slos = zip(table["slo_ttft_s"].to_pylist(), table["slo_tpot_s"].to_pylist(), strict=True)
    return Recorded(
        trace,
        recording.block_size,
        ids,
        offsets,
        table["model"].to_pylist(),
        [Slo(*slo) for slo in slos],
        table["priority"].to_pylist(),
    )


def _hashes(recorded: Recorded, trace: Trace) -> tuple[Integers, Integers]:
    """Block hashes of a reshaped trace with those past the prompts, flat, and their offsets.

    A clipped prompt is followed by nothing known; repeats share nothing.
    """
    source = trace.source_row
    nums = np.diff(recorded.content_offsets)[source]
    is_clipped = trace.num_prompt_tokens < recorded.trace.num_prompt_tokens[source]
    num_tokens = trace.num_prompt_tokens + np.where(is_clipped, 0, trace.num_output_tokens)
    kept = np.minimum(nums, num_tokens // recorded.block_size)
    offsets = np.concatenate(([0], np.cumsum(kept)))
    rows = np.repeat(recorded.content_offsets[source] - offsets[:-1], kept) + np.arange(offsets[-1])
    repeat = np.cumsum(np.diff(source, prepend=source[0] - 1) <= 0)  # rows ascend within a repeat
    num_ids = int(recorded.content_ids.max(initial=-1)) + 1
    ids = recorded.content_ids[rows] + num_ids * np.repeat(repeat, kept)
    return expand(ids, offsets, offsets, 1), offsets


def workload(
    path: str | None = None,
    *,
    episode: int = 0,
    on_bad_part: OnBadPart = "error",
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
) -> Replay:
    """Replay a recording; ``conf/workload/recording.yaml`` explains every setting."""
    if path is None:
        raise ValueError(
            "path is null: give the directory of a recording, such as workload.path=recordings/x"
        )
    recorded = load(path, episode, on_bad_part=on_bad_part)
    trace = shaped(
        recorded.trace,
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
    alike = len(recorded.content_ids) == len(recorded.trace.hash_ids) and all(
        len(set(values)) == 1 for values in (recorded.models, recorded.slos, recorded.priorities)
    )
    if alike and recorded.models[0] == "" and recorded.priorities[0] == 0:
        slo = recorded.slos[0]  # many environments at once take this Replay, and no subclass of it
        return Replay(trace, block_size=recorded.block_size, num_requests=num_requests, start=start, slo=slo)
    return RecordedReplay(recorded, trace, num_requests, start)
