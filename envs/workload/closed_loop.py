"""Sessions in closed loop, wherever they are from: the next turn comes a pause after the previous answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

import numpy as np
from numpy.typing import NDArray

from envs.cluster import Completion, Request, Slo


@dataclass(frozen=True, slots=True)
class Plan:
    """All that chance decides of one session, before it begins. Columns are ``[num_turns]``."""

    tenant: int
    num_prompt_tokens: list[int]
    num_output_tokens: list[int]
    pause_s: list[float]
    """Pause before each turn; the first is not used."""
    hashes: list[NDArray[np.int64]]
    """Chained hashes of each turn's blocks, prompt and answer."""


class ClosedLoop(ABC):
    """Closed-loop ``Workload`` of sessions that start as a Poisson process.

    A session ends early after a request that failed. ``num_requests`` stops the stream after so many requests
    (None: all turns of all sessions).

    Each session is planned from a seed of its own at ``reset``: the same seed plans the same sessions,
    whatever the order of completions. Raises ``ValueError`` for settings out of range.
    """

    closed_loop = True

    def __init__(
        self,
        num_sessions: int,
        sessions_per_s: float,
        num_requests: int | None,
        block_size: int,
        slo: Slo,
        notes: tuple[str, ...],
    ) -> None:
        if num_sessions < 1 or not 0.0 < sessions_per_s < inf:
            raise ValueError(
                f"{num_sessions} sessions at {sessions_per_s} per s: give at least 1, at a positive rate"
            )
        if num_requests is not None and num_requests < 1:
            raise ValueError(f"num_requests is {num_requests}: it must be at least 1, or null")
        self._num_sessions = num_sessions
        self._sessions_per_s = sessions_per_s
        self._cap = num_requests
        self.block_size = block_size
        self._slo = slo
        self.notes = notes
        self._plans: list[Plan] = []
        self._arrivals: list[tuple[float, int, int]] = []  # heap of (arrived_at_s, session, turn from 0)
        self._awaited: dict[int, tuple[int, int]] = {}  # request_id -> (session, turn) that has a next one
        self._num_popped = 0

    @abstractmethod
    def plan(self, rng: np.random.Generator, shared_key: int, own_key: int) -> Plan:
        """Plan a session.

        Args:
            rng: Its chance.
            shared_key: Of content that sessions have in common; the same for all of a stream.
            own_key: Of content that is the session's own.
        """

    @property
    def num_requests(self) -> int | None:
        """Requests that one stream gives if none fails; None before the first ``reset``."""
        if not self._plans:
            return None
        num = sum(len(plan.num_prompt_tokens) for plan in self._plans)
        return num if self._cap is None else min(num, self._cap)

    @property
    def exhausted(self) -> bool:
        """No turn is scheduled, and none that is in flight has a next one; or the cap is reached."""
        return self._num_popped == self._cap or not (self._arrivals or self._awaited)

    def reset(self, rng: np.random.Generator) -> None:
        """Plan new sessions."""
        starts = np.cumsum(rng.exponential(1.0 / self._sessions_per_s, self._num_sessions)).tolist()
        seeds = rng.integers(2**63, size=(self._num_sessions + 1, 2))
        shared_key = int(seeds[-1, 0]) >> 1
        self._plans = [
            self.plan(np.random.default_rng(seed), shared_key, int(own_key) >> 1)
            for seed, own_key in seeds[:-1]
        ]
        self._arrivals = [(start, session, 0) for session, start in enumerate(starts)]  # sorted is a heap
        self._awaited = {}
        self._num_popped = 0

    def next_arrival_at_s(self) -> float:
        """When the next known turn arrives; infinite when none is known now."""
        return self._arrivals[0][0] if self._arrivals and self._num_popped != self._cap else inf

    def pop(self) -> Request:
        """Return the next known turn; ``RuntimeError`` when none is known."""
        if self.next_arrival_at_s() == inf:
            raise RuntimeError("no turn is known now: reset the workload, or observe a completion first")
        arrived_at_s, session, turn = heappop(self._arrivals)
        plan = self._plans[session]
        request_id = self._num_popped
        self._num_popped += 1
        if turn + 1 < len(plan.num_prompt_tokens):
            self._awaited[request_id] = session, turn
        return Request(
            request_id,
            arrived_at_s,
            plan.num_prompt_tokens[turn],
            plan.num_output_tokens[turn],
            plan.hashes[turn],
            session,
            turn + 1,
            plan.tenant,
            "",
            self._slo,
        )

    def observe(self, completion: Completion) -> None:
        """Schedule the next turn a pause after this answer; a session whose request failed ends here."""
        awaited = self._awaited.pop(completion.request_id, None)
        if awaited is None or completion.failure:
            return
        session, turn = awaited
        pause_s = self._plans[session].pause_s[turn + 1]
        heappush(self._arrivals, (completion.finished_at_s + pause_s, session, turn + 1))
