"""Recorded agent sessions in closed loop (WEKA's Claude Code traces, callanjfox/kv-cache-tester, Apache-2.0).

Read is ``weka_claude_code_le128k.parquet``: one row per request with its prompt's 64-token content ids, the
pause before it, and the tokens of tools and system prompt. A session of ours is a stretch of a recorded one:
some turns in a row from any of its turns on, as of somebody who comes back to it, with content of its own.

Two assumptions. Sessions of one model with as many tokens of tools and of system prompt share that prefix:
ids are recorded per session, so that the trace does not tell. And where the next prompt goes on from this
one, the answer is what the next prompt has after this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from envs.cluster import Slo
from envs.workload.block_hash import expand
from envs.workload.closed_loop import ClosedLoop, Plan
from envs.workload.location import trace_path
from envs.workload.settings import positive, positive_int, slo_of

DEFAULT_FILE = "weka/weka_claude_code_le128k.parquet"
HASH_BLOCK_TOKENS = 64
COLUMNS = (
    "session_id",
    "turn",
    "model",
    "prompt_tokens",
    "output_tokens",
    "think_time_s",
    "tool_tokens",
    "system_tokens",
    "block_hashes",
)
FRAC_OF_PART = {"train": 0.5, "tune": 0.2, "test": 0.3}
"""Share of the turns; sessions that are forks of one another are all in one part."""
NUM_FORK_TURNS = 5
"""First turns by which forks of one conversation are known (the traces' README)."""
KEY_SHIFT, SHARED_STRIDE = 8, 1 << 24
"""Keys of content leave so many bits for the blocks of an id; shared prefixes lie so far apart."""

Part = Literal["all", "train", "tune", "test"]


@dataclass(frozen=True)
class Recorded:
    """One recorded session; columns are ``[num_turns]``."""

    num_prompt_tokens: NDArray[np.int64]
    num_output_tokens: NDArray[np.int64]
    pause_s: NDArray[np.float64]
    """Before each turn, after the answer before it."""
    ids: list[NDArray[np.int64]]
    """Of each prompt's full blocks, from 0, the session's own."""
    prefix: int
    """Which prefix of tools and system prompt it begins with."""
    num_prefix_ids: int
    """Ids of that prefix."""


def load(path: str | Path, part: Part = "all") -> list[Recorded]:
    """Read the sessions of a part.

    Raises ``ValueError`` naming the file where it lacks a column, or the part where it is unknown.
    """
    if part not in ("all", *FRAC_OF_PART):
        raise ValueError(f"part is {part!r}: choose all, {', '.join(FRAC_OF_PART)}")
    try:
        table = pd.read_parquet(path, columns=list(COLUMNS))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: no trace of agent sessions ({error})") from error
    prefixes: dict[tuple[str, int, int], int] = {}
    sessions, forks = [], []
    for session_id, rows in table.sort_values(["session_id", "turn"], kind="stable").groupby("session_id"):
        first = rows.iloc[0]
        key = (str(first["model"]), int(first["tool_tokens"]), int(first["system_tokens"]))
        lengths = rows[["prompt_tokens", "output_tokens"]].to_numpy(np.int64).clip(1)  # some answers are 0
        forks.append(lengths[:NUM_FORK_TURNS].tobytes() if len(rows) >= NUM_FORK_TURNS else str(session_id))
        sessions.append(
            Recorded(
                num_prompt_tokens=lengths[:, 0],
                num_output_tokens=lengths[:, 1],
                pause_s=rows["think_time_s"].fillna(0.0).to_numpy(np.float64),
                ids=[np.asarray(ids, np.int64) & 0xFFFFFFFF for ids in rows["block_hashes"]],
                prefix=prefixes.setdefault(key, len(prefixes)),
                num_prefix_ids=(key[1] + key[2]) // HASH_BLOCK_TOKENS,
            )
        )
    if part == "all":
        return sessions
    chosen = _parts([len(each.pause_s) for each in sessions], forks)
    return [session for session, of in zip(sessions, chosen, strict=True) if of == part]


def _parts(num_turns: list[int], forks: list[bytes | str]) -> list[str]:
    """Which part each session belongs to: forks together, dealt out in an order shuffled once for all."""
    groups: dict[bytes | str, list[int]] = {}
    for index, fork in enumerate(forks):
        groups.setdefault(fork, []).append(index)
    order = list(groups.values())
    parts, ends = [""] * len(forks), np.cumsum(list(FRAC_OF_PART.values())) * sum(num_turns)
    num_dealt = 0
    for group in np.random.default_rng(0).permutation(len(order)):
        part = list(FRAC_OF_PART)[int(np.searchsorted(ends[:-1], num_dealt, side="right"))]
        for index in order[group]:
            parts[index] = part
            num_dealt += num_turns[index]
    return parts


class WekaSessions(ClosedLoop):
    """Closed-loop ``Workload`` of stretches of recorded sessions.

    Args:
        sessions: To take stretches of.
        rate_per_s: Turns per second that the stretches which begin in a second have, on average.
        max_turns: Turns of a stretch, fewer where the session ends, or a turn would exceed ``max_model_len``.
        max_pause_s: Longer pauses are cut to this.
        max_model_len: Tokens of prompt and answer.
        num_requests: Of one stream.
        block_size: Tokens per block of the instances; divides ``HASH_BLOCK_TOKENS``.
        slo: Of every request.
        notes: Where the sessions are from.
    """

    def __init__(
        self,
        sessions: list[Recorded],
        rate_per_s: float,
        max_turns: int,
        max_pause_s: float,
        max_model_len: int,
        num_requests: int,
        block_size: int,
        slo: Slo,
        notes: tuple[str, ...] = (),
    ) -> None:
        if block_size < 1 or HASH_BLOCK_TOKENS % block_size:
            raise ValueError(
                f"block_size {block_size} does not divide the {HASH_BLOCK_TOKENS}-token content ids of the"
                " trace: choose a divisor"
            )
        self._stretches = [
            (session, range(first, min(_end(session, first, max_model_len), first + max_turns)))
            for session in sessions
            for first in range(len(session.pause_s))
            if _end(session, first, max_model_len) > first
        ]
        if not self._stretches:
            raise ValueError(f"no turn has at most max_model_len = {max_model_len} tokens: raise it")
        mean_turns = float(np.mean([len(turns) for _, turns in self._stretches]))
        super().__init__(
            num_sessions=int(1.5 * num_requests / mean_turns) + 20,
            sessions_per_s=positive("rate_per_s", rate_per_s) / mean_turns,
            num_requests=num_requests,
            block_size=block_size,
            slo=slo,
            notes=(
                *notes,
                f"stretches of up to {max_turns} turns, {mean_turns:.1f} on average, pauses cut to"
                f" {max_pause_s:g} s",
            ),
        )
        self._max_pause_s = max_pause_s

    def plan(self, rng: np.random.Generator, shared_key: int, own_key: int) -> Plan:
        """Draw a stretch, each turn of each session as likely as any other to be its first."""
        session, turns = self._stretches[int(rng.integers(len(self._stretches)))]
        hashes: list[NDArray[np.int64]] = []
        after, fine = np.empty(0, np.int64), np.empty(0, np.int64)
        for turn in reversed(turns):  # so that turns of one conversation share memory
            ids = session.ids[turn]
            num_tokens = int(session.num_prompt_tokens[turn] + session.num_output_tokens[turn])
            if len(after) < len(ids) or not np.array_equal(after[: len(ids)], ids):
                num_tokens = int(session.num_prompt_tokens[turn])  # nobody knows what the answer was
                fine = self._fine(session, ids, shared_key >> KEY_SHIFT, own_key >> KEY_SHIFT)
            hashes.append(fine[: num_tokens // self.block_size])
            after = ids
        pauses = np.minimum(session.pause_s[turns.start : turns.stop], self._max_pause_s)
        return Plan(
            tenant=0,
            num_prompt_tokens=session.num_prompt_tokens[turns.start : turns.stop].tolist(),
            num_output_tokens=session.num_output_tokens[turns.start : turns.stop].tolist(),
            pause_s=pauses.tolist(),
            hashes=hashes[::-1],
        )

    def _fine(
        self, session: Recorded, ids: NDArray[np.int64], shared_key: int, own_key: int
    ) -> NDArray[np.int64]:
        """Hashes of the engine's blocks of a prompt: of the shared prefix the same in all sessions."""
        num_fine = HASH_BLOCK_TOKENS // self.block_size
        keys = own_key + ids
        is_prefix = np.arange(len(ids)) < session.num_prefix_ids
        first = session.ids[0][: len(ids)]
        is_prefix[: len(first)] &= first == ids[: len(first)]
        is_prefix[len(first) :] = False
        places = np.flatnonzero(is_prefix)
        keys[places] = shared_key + session.prefix * SHARED_STRIDE + places
        return expand(keys, np.array([0, len(ids)]), np.array([0, len(ids) * num_fine]), num_fine)


def _end(session: Recorded, first: int, max_model_len: int) -> int:
    """The first turn from ``first`` on that is too long, or the number of turns."""
    lengths = session.num_prompt_tokens[first:] + session.num_output_tokens[first:]
    too_long = np.flatnonzero(lengths > max_model_len)
    return first + int(too_long[0]) if len(too_long) else len(session.pause_s)


def workload(
    path: str | None = None,
    *,
    part: Part = "all",
    rate_per_s: float = 1.0,
    max_turns: int = 8,
    max_pause_s: float = 30.0,
    max_model_len: int = 131072,
    num_requests: int = 1000,
    block_size: int = 16,
    slo_ttft_s: float = 2.0,
    slo_tpot_s: float = 0.1,
) -> WekaSessions:
    """Replay stretches of recorded sessions; ``conf/workload/weka.yaml`` explains every setting."""
    if not 0.0 <= max_pause_s < inf:
        raise ValueError(f"max_pause_s is {max_pause_s}: it must be a number of seconds from 0")
    file = Path(path) if path is not None else trace_path(DEFAULT_FILE)
    sessions = load(file, part)
    return WekaSessions(
        sessions,
        rate_per_s=rate_per_s,
        max_turns=positive_int("max_turns", max_turns),
        max_pause_s=max_pause_s,
        max_model_len=positive_int("max_model_len", max_model_len),
        num_requests=positive_int("num_requests", num_requests),
        block_size=positive_int("block_size", block_size),
        slo=slo_of(slo_ttft_s, slo_tpot_s),
        notes=(f"WEKA {file.name}, {len(sessions)} sessions ({part}) in closed loop",),
    )
