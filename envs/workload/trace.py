"""A request trace as columns, and the ways to reshape one.

    trace = mooncake.load(trace_path("mooncake/conversation_trace.jsonl"))
    train, test = trace.dropping_longer_than(32768).split(0.7)
    stream = Replay(train.scaled(2.0), num_requests=2000, start="random")

Every method leaves its trace alone and returns a new one whose ``notes`` say what was done.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.cluster import DEFAULT_SLO, Request, Slo
from envs.workload.block_hash import expand

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


_LEAST = {
    "num_prompt_tokens": 1,
    "num_output_tokens": 1,
    "session_id": -1,
    "turn": 1,
    "tenant": 0,
    "source_row": 0,
}
"""Columns of whole numbers, one per request, and the least value of each."""


def _no_column() -> Integers:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival, one column per property, each ``[num_requests]`` and read-only.

    An optional column given empty stands for its default in every row. Raises ``ValueError`` for columns
    that no stream of requests could have.
    """

    arrived_at_s: Floats
    """Ascending, from 0 or later."""
    num_prompt_tokens: Integers
    num_output_tokens: Integers
    session_id: Integers = field(default_factory=_no_column)
    """-1: belongs to no session."""
    turn: Integers = field(default_factory=_no_column)
    """Place in its session, from 1."""
    tenant: Integers = field(default_factory=_no_column)
    """From 0."""
    hash_ids: Integers = field(default_factory=_no_column)
    """All requests' content ids, flat. Ids are chained: equal id = equal whole prefix."""
    hash_offsets: Integers = field(default_factory=_no_column)
    """Request ``i`` owns ``hash_ids[hash_offsets[i]:hash_offsets[i + 1]]``: ``[num_requests + 1]``."""
    source_row: Integers = field(default_factory=_no_column)
    """Which request of the trace as loaded or generated this is, from 0 (default: the row itself)."""
    hash_block_tokens: int = 0
    """Prompt tokens that one content id stands for (the last may be partial); 0: no prefixes known."""
    num_skipped_lines: int = 0
    """Malformed lines of the file that were left out."""
    notes: tuple[str, ...] = ()
    """What was done to the data, for the results that come of it."""

    def __post_init__(self) -> None:
        num = len(self.arrived_at_s)
        if num == 0:
            raise ValueError(f"the trace is empty: choose a wider part of it (notes: {list(self.notes)})")
        defaults = {"session_id": -1, "turn": 1, "tenant": 0}
        for name, default in defaults.items():
            if len(getattr(self, name)) == 0:
                self._set(name, np.full(num, default, np.int64))
        if len(self.source_row) == 0:
            self._set("source_row", np.arange(num))
        if len(self.hash_offsets) == 0:
            self._set("hash_offsets", np.zeros(num + 1, np.int64))
        for name in (*_LEAST, "hash_ids", "hash_offsets"):
            column = np.array(getattr(self, name))
            if column.dtype.kind not in "iu" or column.ndim != 1:
                raise ValueError(
                    f"{name} is an array of {column.dtype} with {column.ndim} dimensions:"
                    " give whole numbers in one dimension"
                )
            self._set(name, column.astype(np.int64))
        self._set("arrived_at_s", np.array(self.arrived_at_s, np.float64))
        self._check()

    def _set(self, name: str, column: NDArray[Any]) -> None:
        column.setflags(write=False)
        object.__setattr__(self, name, column)

    def _check(self) -> None:
        num = len(self)
        for name in _LEAST:
            column = getattr(self, name)
            if len(column) != num:
                raise ValueError(
                    f"{name} has {len(column)} rows, arrived_at_s has {num}: give one per request"
                )
        bad = ~np.isfinite(self.arrived_at_s) | (self.arrived_at_s < 0.0)
        bad[1:] |= np.diff(self.arrived_at_s) < 0.0
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"arrived_at_s of row {row} is {self.arrived_at_s[row]}:"
                " arrivals must be finite, from 0 on, and ascending; sort them and take the first one off"
            )
        for name, least in _LEAST.items():
            column = getattr(self, name)
            if column.min() < least:
                row = int((column < least).argmax())
                raise ValueError(f"{name} of row {row} is {column[row]}: it must be at least {least}")
        self._check_hashes()

    def _check_hashes(self) -> None:
        if len(self.hash_offsets) != len(self) + 1:
            raise ValueError(
                f"hash_offsets has {len(self.hash_offsets)} rows: give one more than the {len(self)} requests"
            )
        nums = np.diff(self.hash_offsets)
        if self.hash_offsets[0] != 0 or self.hash_offsets[-1] != len(self.hash_ids) or nums.min() < 0:
            raise ValueError(
                f"hash_offsets must ascend from 0 to {len(self.hash_ids)}, the length of hash_ids"
            )
        if len(self.hash_ids) == 0:
            return
        if self.hash_block_tokens < 1:
            raise ValueError(
                f"hash_block_tokens is {self.hash_block_tokens}: say how many tokens one id stands for"
            )
        if self.hash_ids.min() < 0:
            raise ValueError(f"hash_ids holds {self.hash_ids.min()}: content ids must be at least 0")
        bad = nums > -(-self.num_prompt_tokens // self.hash_block_tokens)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"row {row} has {nums[row]} content ids of {self.hash_block_tokens} tokens for a prompt of"
                f" {self.num_prompt_tokens[row]}: give at most one per begun block"
            )

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.arrived_at_s)

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second, from the first to the last."""
        span_s = float(self.arrived_at_s[-1] - self.arrived_at_s[0])
        if span_s == 0.0:
            raise ValueError(f"a trace of {len(self)} requests at one instant has no rate: take more of it")
        return (len(self) - 1) / span_s

    # --- reshaping ---

    def _taken(self, rows: Integers, note: str, **changes: Any) -> Trace:
        starts, nums = self.hash_offsets[rows], np.diff(self.hash_offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(nums)))
        flat = np.repeat(starts - offsets[:-1], nums) + np.arange(offsets[-1])
        columns = {name: getattr(self, name)[rows] for name in ("arrived_at_s", *_LEAST)}
        columns |= {"hash_ids": self.hash_ids[flat], "hash_offsets": offsets}
        return replace(self, **{**columns, **changes}, notes=(*self.notes, note) if note else self.notes)

    def noted(self, note: str) -> Trace:
        """The same requests with one more note."""
        return replace(self, notes=(*self.notes, note))

    def scaled(self, rate_factor: float) -> Trace:
        """Arrivals ``rate_factor`` times as dense."""
        if not 0.0 < rate_factor < float("inf"):
            raise ValueError(f"rate_factor is {rate_factor}: it must be a positive number (1: as recorded)")
        if rate_factor == 1.0:
            return self
        times = self.arrived_at_s / rate_factor
        return replace(self, arrived_at_s=times, notes=(*self.notes, f"rate x{rate_factor:.4g}"))

    def window(self, start_s: float, stop_s: float) -> Trace:
        """Requests that arrived in [start_s, stop_s); the clock begins anew at ``start_s``."""
        note = f"window [{start_s:g}, {stop_s:g}) s"
        rows = np.flatnonzero((self.arrived_at_s >= start_s) & (self.arrived_at_s < stop_s))
        if len(rows) == 0:
            raise ValueError(
                f"{note} holds no request: the trace runs from {self.arrived_at_s[0]:g} to"
                f" {self.arrived_at_s[-1]:g} s"
            )
        return self._taken(rows, note, arrived_at_s=self.arrived_at_s[rows] - start_s)

    def split(self, frac: float) -> tuple[Trace, Trace]:
        """Part the trace in time: (train, test), train being the first ``frac`` of the duration.

        Prefixes seen in train may come again in test, as they would in service.
        """
        if not 0.0 < frac < 1.0:
            raise ValueError(f"frac is {frac}: it must lie between 0 and 1 for both parts to hold something")
        first, last = self.arrived_at_s[[0, -1]]
        cut_s = first + frac * (last - first)
        in_train = self.arrived_at_s < cut_s
        if not in_train.any():
            raise ValueError(f"the first {frac:g} of the trace holds no request: raise frac")
        late = np.flatnonzero(~in_train)
        train = self._taken(np.flatnonzero(in_train), f"train: first {frac:g} of the time")
        test = self._taken(
            late, f"test: last {1.0 - frac:g} of the time", arrived_at_s=self.arrived_at_s[late] - cut_s
        )
        return train, test

    def repeated(self, num_times: int) -> Trace:
        """The trace ``num_times`` in a row, a mean gap between; repeats share no prefix and no session."""
        if num_times < 1:
            raise ValueError(f"num_times is {num_times}: it must be at least 1")
        if num_times == 1:
            return self
        period_s = float(self.arrived_at_s[-1] - self.arrived_at_s[0]) + 1.0 / self.rate_per_s
        repeat = np.repeat(np.arange(num_times), len(self))
        session = np.tile(self.session_id, num_times)
        num_sessions = int(self.session_id.max()) + 1
        num_ids = int(self.hash_ids.max(initial=-1)) + 1
        id_repeat = np.repeat(np.arange(num_times), len(self.hash_ids))
        return self._taken(
            np.tile(np.arange(len(self)), num_times),
            f"repeated {num_times} times with disjoint prefixes",
            arrived_at_s=np.tile(self.arrived_at_s, num_times) + repeat * period_s,
            session_id=np.where(session >= 0, session + repeat * num_sessions, -1),
            hash_ids=np.tile(self.hash_ids, num_times) + id_repeat * num_ids,
        )

    def truncated(self, max_prompt_tokens: int | None = None, max_output_tokens: int | None = None) -> Trace:
        """Prompts (their ends) and outputs clipped to at most so many tokens; this changes the hit rate."""
        trace = self
        for name, most in (
            ("num_prompt_tokens", max_prompt_tokens),
            ("num_output_tokens", max_output_tokens),
        ):
            if most is None:
                continue
            if most < 1:
                raise ValueError(f"max_{name.removeprefix('num_')} is {most}: it must be at least 1")
            column = getattr(trace, name)
            num_clipped = int((column > most).sum())
            kind = name.split("_")[1]
            note = f"{num_clipped} of {len(self)} {kind}s clipped to {most} tokens"
            trace = replace(trace, **trace._clipped(name, most), notes=(*trace.notes, note))
        return trace

    def _clipped(self, name: str, most: int) -> dict[str, Any]:
        clipped = {name: np.minimum(getattr(self, name), most)}
        if name == "num_prompt_tokens" and len(self.hash_ids):
            nums = np.diff(self.hash_offsets)
            kept = np.minimum(nums, -(-clipped[name] // self.hash_block_tokens))
            place = np.arange(len(self.hash_ids)) - np.repeat(self.hash_offsets[:-1], nums)
            clipped["hash_ids"] = self.hash_ids[place < np.repeat(kept, nums)]
            clipped["hash_offsets"] = np.concatenate(([0], np.cumsum(kept)))
        return clipped

    def dropping_longer_than(self, max_model_len: int) -> Trace:
        """Without the requests whose prompt and output together exceed ``max_model_len`` tokens."""
        fits = self.num_prompt_tokens + self.num_output_tokens <= max_model_len
        if not fits.any():
            raise ValueError(
                f"every request is longer than max_model_len = {max_model_len}: raise it or truncate"
            )
        note = f"{int((~fits).sum())} of {len(self)} requests longer than {max_model_len} tokens dropped"
        return self._taken(np.flatnonzero(fits), note)

    def head(self, n: int) -> Trace:
        """The first ``n`` requests."""
        if not 1 <= n <= len(self):
            raise ValueError(
                f"cannot take the first {n} requests of {len(self)}: repeat the trace or ask for fewer"
            )
        return self._taken(np.arange(n), "" if n == len(self) else f"first {n} of {len(self)} requests")

    # --- requests ---

    def _num_hashes(self, block_size: int) -> tuple[Integers, int]:
        """Full blocks of ``block_size`` with known content, per request; and such blocks in a content id."""
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}: it must be at least 1")
        if len(self.hash_ids) == 0:
            return np.zeros(len(self), np.int64), 1
        num_fine, rest = divmod(self.hash_block_tokens, block_size)
        if rest or num_fine == 0:
            raise ValueError(
                f"block_size {block_size} does not divide the trace's {self.hash_block_tokens}-token content"
                " ids: choose a divisor"
            )
        return np.minimum(
            self.num_prompt_tokens // block_size, np.diff(self.hash_offsets) * num_fine
        ), num_fine

    def expanded(self, block_size: int) -> tuple[Integers, Integers]:
        """Return the ``block_hashes`` of all requests flat, and their offsets ``[num_requests + 1]``."""
        nums, num_fine = self._num_hashes(block_size)
        offsets = np.concatenate(([0], np.cumsum(nums)))
        return expand(self.hash_ids, self.hash_offsets, offsets, num_fine), offsets

    def block_hashes(self, i: int, block_size: int) -> Integers:
        """Chained hashes in [1, 2^63) of request ``i``'s full prompt blocks, ``[num_blocks]``."""
        nums, num_fine = self._num_hashes(block_size)
        return expand(self.hash_ids, self.hash_offsets[i : i + 2], np.array([0, nums[i]]), num_fine)

    def request(self, i: int, block_size: int, slo: Slo = DEFAULT_SLO) -> Request:
        """Row ``i`` as a request with id ``i``; slow, ``Replay`` is the fast way through a whole trace."""
        return Request(
            request_id=i,
            arrived_at_s=float(self.arrived_at_s[i]),
            num_prompt_tokens=int(self.num_prompt_tokens[i]),
            num_output_tokens=int(self.num_output_tokens[i]),
            block_hashes=self.block_hashes(i, block_size),
            session_id=int(self.session_id[i]),
            turn=int(self.turn[i]),
            tenant=int(self.tenant[i]),
            slo=slo,
        )
