"""Conversations in closed loop: the next turn comes a pause after the previous answer.

Default turns, pauses, new prompt tokens and answer lengths are p50 and p90 of 245 Claude Code sessions
(callanjfox/kv-cache-tester, commit 94f6046: turns 24/78, think time 10/163 s, output 209/821, prompt growth
beyond the previous prompt and answer, where it grew, 311/3029 tokens); maxima are about p99. The arrival
rate, the 2048-token system prompts and their number are assumptions of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

import numpy as np
from numpy.typing import NDArray

from envs.cluster import DEFAULT_SLO, Completion, Request, Slo
from envs.workload.block_hash import hash_run
from envs.workload.laws import LogNormal, tenant_shares, zipf_shares
from envs.workload.settings import slo_of

AGENT_TURNS = LogNormal(median=24, sigma=0.92, min=1, max=149)
AGENT_NEW_TOKENS = LogNormal(median=311, sigma=1.776, min=1, max=16110)
AGENT_OUTPUT = LogNormal(median=209, sigma=1.068, min=1, max=4081)
AGENT_PAUSE_S = LogNormal(median=10, sigma=2.178, min=0, max=2949)


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that chance decides of one session, drawn before it begins. Columns are ``[num_turns]``."""

    tenant: int
    num_prompt_tokens: list[int]
    num_output_tokens: list[int]
    pause_s: list[float]
    """Pause before each turn; the first is not used."""
    hashes: NDArray[np.int64]
    """Chained hashes of the whole conversation: each turn's are the first of these."""


class Sessions:
    """Closed-loop ``Workload`` of multi-turn sessions with shared system prompts.

    Sessions start as a Poisson process. A turn's prompt is the whole previous prompt, the previous answer
    and new tokens, so its ``block_hashes`` go on where the previous turn's prompt + answer end. A session
    ends early before a turn that would exceed ``max_model_len``, and after a request that failed.
    ``num_requests`` stops the stream after so many requests (None: all turns of all sessions).

    Each session is planned from a seed of its own at ``reset``: the same seed plans the same sessions,
    whatever the order of completions. Raises ``ValueError`` for settings out of range.
    """

    closed_loop = True

    def __init__(
        self,
        *,
        num_sessions: int = 200,
        sessions_per_s: float = 0.1,
        turns: LogNormal = AGENT_TURNS,
        new_tokens: LogNormal = AGENT_NEW_TOKENS,
        output: LogNormal = AGENT_OUTPUT,
        pause_s: LogNormal = AGENT_PAUSE_S,
        num_prefix_groups: int = 8,
        num_system_tokens: int = 2048,
        group_zipf: float = 1.0,
        num_tenants: int = 1,
        tenant_weights: Sequence[float] | None = None,
        max_model_len: int = 32768,
        num_requests: int | None = None,
        block_size: int = 16,
        slo: Slo = DEFAULT_SLO,
    ) -> None:
        if num_sessions < 1 or not 0.0 < sessions_per_s < inf:
            raise ValueError(
                f"{num_sessions} sessions at {sessions_per_s} per s: give at least 1, at a positive rate"
            )
        if num_requests is not None and num_requests < 1:
            raise ValueError(f"num_requests is {num_requests}: it must be at least 1, or null")
        if num_system_tokens < 0 or block_size < 1:
            raise ValueError(
                f"num_system_tokens is {num_system_tokens} and block_size {block_size}:"
                " they must be at least 0 and 1"
            )
        longest = num_system_tokens + new_tokens.max + output.max
        if longest > max_model_len:
            raise ValueError(
                f"a first turn may need {longest:g} tokens (system + new + output maxima), max_model_len is"
                f" {max_model_len}: raise it or lower the maxima"
            )
        self._num_sessions = num_sessions
        self._sessions_per_s = sessions_per_s
        self._turns, self._new_tokens, self._output, self._pause_s = turns, new_tokens, output, pause_s
        self._num_system_tokens = num_system_tokens
        self._group_shares = zipf_shares(num_prefix_groups, group_zipf)
        self._tenant_shares = tenant_shares(num_tenants, tenant_weights)
        self._max_model_len = max_model_len
        self._cap = num_requests
        self.block_size = block_size
        self._slo = slo
        self.notes = (f"{num_sessions} generated sessions in closed loop",)
        self._plans: list[_Plan] = []
        self._arrivals: list[tuple[float, int, int]] = []  # heap of (arrived_at_s, session, turn from 0)
        self._awaited: dict[int, tuple[int, int]] = {}  # request_id -> (session, turn) that has a next one
        self._num_popped = 0

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
        system_key = int(seeds[-1, 0]) >> 1
        self._plans = [
            self._plan(np.random.default_rng(seed), system_key, int(content_key) >> 1)
            for seed, content_key in seeds[:-1]
        ]
        self._arrivals = [(start, session, 0) for session, start in enumerate(starts)]  # sorted is a heap
        self._awaited = {}
        self._num_popped = 0

    def _plan(self, rng: np.random.Generator, system_key: int, content_key: int) -> _Plan:
        group = int(rng.choice(len(self._group_shares), p=self._group_shares))
        tenant = int(rng.choice(len(self._tenant_shares), p=self._tenant_shares))
        num_turns = int(self._turns.draw_whole(rng, 1)[0])
        outputs = self._output.draw_whole(rng, num_turns)
        pauses = self._pause_s.draw(rng, num_turns)
        prompts = self._num_system_tokens + np.cumsum(self._new_tokens.draw_whole(rng, num_turns))
        prompts[1:] += np.cumsum(outputs[:-1])
        num_fitting = int(np.searchsorted(prompts + outputs, self._max_model_len, side="right"))
        prompts, outputs, pauses = prompts[:num_fitting], outputs[:num_fitting], pauses[:num_fitting]
        num_blocks = int(prompts[-1] + outputs[-1]) // self.block_size
        num_system_blocks = self._num_system_tokens // self.block_size
        system = hash_run(system_key + group * num_system_blocks, num_system_blocks)
        own = hash_run(content_key, num_blocks - num_system_blocks)
        return _Plan(
            tenant, prompts.tolist(), outputs.tolist(), pauses.tolist(), np.concatenate((system, own))
        )

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
        num_prompt, num_output = plan.num_prompt_tokens[turn], plan.num_output_tokens[turn]
        if turn + 1 < len(plan.num_prompt_tokens):
            self._awaited[request_id] = session, turn
        return Request(
            request_id,
            arrived_at_s,
            num_prompt,
            num_output,
            plan.hashes[: (num_prompt + num_output) // self.block_size],
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


def workload(
    *,
    num_sessions: int = 200,
    sessions_per_s: float = 0.1,
    turns_median: float = 24,
    turns_sigma: float = 0.92,
    turns_min: float = 1,
    turns_max: float = 149,
    new_median: float = 311,
    new_sigma: float = 1.776,
    new_min: float = 1,
    new_max: float = 16110,
    output_median: float = 209,
    output_sigma: float = 1.068,
    output_min: float = 1,
    output_max: float = 4081,
    pause_median_s: float = 10,
    pause_sigma: float = 2.178,
    pause_min_s: float = 0,
    pause_max_s: float = 2949,
    num_prefix_groups: int = 8,
    num_system_tokens: int = 2048,
    group_zipf: float = 1.0,
    num_tenants: int = 1,
    tenant_weights: Sequence[float] | None = None,
    max_model_len: int = 32768,
    num_requests: int | None = None,
    block_size: int = 16,
    slo_ttft_s: float = 2.0,
    slo_tpot_s: float = 0.1,
) -> Sessions:
    """Sessions from plain numbers; ``conf/workload/sessions.yaml`` explains every setting."""
    return Sessions(
        num_sessions=num_sessions,
        sessions_per_s=sessions_per_s,
        turns=LogNormal(turns_median, turns_sigma, turns_min, turns_max),
        new_tokens=LogNormal(new_median, new_sigma, new_min, new_max),
        output=LogNormal(output_median, output_sigma, output_min, output_max),
        pause_s=LogNormal(pause_median_s, pause_sigma, pause_min_s, pause_max_s),
        num_prefix_groups=num_prefix_groups,
        num_system_tokens=num_system_tokens,
        group_zipf=group_zipf,
        num_tenants=num_tenants,
        tenant_weights=tenant_weights,
        max_model_len=max_model_len,
        num_requests=num_requests,
        block_size=block_size,
        slo=slo_of(slo_ttft_s, slo_tpot_s),
    )
