"""A trace played back in open loop."""

from __future__ import annotations

from math import inf
from typing import Literal

import numpy as np

from envs.cluster import DEFAULT_SLO, Completion, Request, Slo
from envs.workload.trace import Integers, Trace

Start = Literal["first", "random"]


class Replay:
    """Open-loop ``Workload`` over a trace, or over ``num_requests`` consecutive requests of it.

    With ``start`` "first" every reset gives the same stream, from the trace's first request on. With
    "random" each reset begins at a request drawn from its generator, so that each seed gives another
    stretch. Either way the first request arrives at 0 and has id 0. ``rate_factor`` makes arrivals denser.
    Raises ``ValueError`` where the trace is too short.

    ``first`` is the row in ``trace`` of the current stretch's first request; where two stretches overlap,
    ``source_rows()`` have requests in common. ``hashes[hash_offsets[row] : hash_offsets[row + 1]]`` are the
    block hashes of the request in a row of ``trace``.
    """

    closed_loop = False

    def __init__(
        self,
        trace: Trace,
        *,
        block_size: int = 16,
        num_requests: int | None = None,
        start: Start = "first",
        rate_factor: float = 1.0,
        slo: Slo = DEFAULT_SLO,
    ) -> None:
        num_requests = len(trace) if num_requests is None else num_requests
        if not 1 <= num_requests <= len(trace):
            raise ValueError(
                f"num_requests is {num_requests}, the trace has {len(trace)}:"
                " ask for 1 or more, or lengthen the trace (num_repeats, num_generated)"
            )
        if start not in ("first", "random"):
            raise ValueError(f"start is {start!r}: choose 'first' or 'random'")
        trace = trace.scaled(rate_factor)
        if start == "first":
            trace = trace.head(num_requests)
        self.trace = trace
        self.block_size = block_size
        self.num_requests = num_requests
        self.notes = trace.notes
        if num_requests < len(trace):
            self.notes += (f"{num_requests} consecutive requests from a random start",)
        self.hashes, self.hash_offsets = trace.expanded(block_size)
        # plain lists: reading a number out of an array costs more than all else in pop()
        self._offsets: list[int] = self.hash_offsets.tolist()
        self._arrived_at_s: list[float] = trace.arrived_at_s.tolist()
        self._num_prompt_tokens: list[int] = trace.num_prompt_tokens.tolist()
        self._num_output_tokens: list[int] = trace.num_output_tokens.tolist()
        self._session_id: list[int] = trace.session_id.tolist()
        self._turn: list[int] = trace.turn.tolist()
        self._tenant: list[int] = trace.tenant.tolist()
        self.slo = slo
        self._begin(0)

    def _begin(self, first: int) -> None:
        self.first = self._next = first
        self._stop = first + self.num_requests
        self._start_s = self._arrived_at_s[first]

    @property
    def stretch(self) -> range:
        """Rows in ``trace`` of the requests that the current reset gives."""
        return range(self.first, self._stop)

    def source_rows(self) -> Integers:
        """Which request of the trace as loaded, unrepeated, each of the stretch is: ``[num_requests]``."""
        return self.trace.source_row[self.first : self._stop]

    @property
    def exhausted(self) -> bool:
        """Whether every request has been popped."""
        return self._next == self._stop

    def reset(self, rng: np.random.Generator) -> None:
        """Begin anew; a random start draws one integer from ``rng``, a fixed one draws nothing."""
        num_starts = len(self._arrived_at_s) - self.num_requests + 1
        self._begin(int(rng.integers(num_starts)) if num_starts > 1 else 0)

    def next_arrival_at_s(self) -> float:
        """When the next request arrives; infinite after the last."""
        return self._arrived_at_s[self._next] - self._start_s if self._next < self._stop else inf

    def pop(self) -> Request:
        """Return the next request; ``RuntimeError`` after the last."""
        row = self._next
        if row == self._stop:
            raise RuntimeError(f"all {self.num_requests} requests have been popped: reset the workload")
        self._next = row + 1
        return Request(
            row - self.first,
            self._arrived_at_s[row] - self._start_s,
            self._num_prompt_tokens[row],
            self._num_output_tokens[row],
            self.hashes[self._offsets[row] : self._offsets[row + 1]],
            self._session_id[row],
            self._turn[row],
            self._tenant[row],
            "",
            self.slo,
        )

    def observe(self, completion: Completion) -> None:
        """Nothing follows from a completion in open loop."""
