"""Conversations in closed loop: the next turn comes a pause after the previous answer.

Default turns, pauses, new prompt tokens and answer lengths are p50 and p90 of 245 Claude Code sessions
(callanjfox/kv-cache-tester, commit 94f6046: turns 24/78, think time 10/163 s, output 209/821, prompt growth
beyond the previous prompt and answer, where it grew, 311/3029 tokens); maxima are about p99. The arrival
rate, the 2048-token system prompts and their number are assumptions of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.cluster import DEFAULT_SLO, Slo
from envs.workload.block_hash import hash_run
from envs.workload.closed_loop import ClosedLoop, Plan
from envs.workload.laws import LogNormal, tenant_shares, zipf_shares
from envs.workload.settings import slo_of

AGENT_TURNS = LogNormal(median=24, sigma=0.92, min=1, max=149)
AGENT_NEW_TOKENS = LogNormal(median=311, sigma=1.776, min=1, max=16110)
AGENT_OUTPUT = LogNormal(median=209, sigma=1.068, min=1, max=4081)
AGENT_PAUSE_S = LogNormal(median=10, sigma=2.178, min=0, max=2949)


class Sessions(ClosedLoop):
    """Closed-loop ``Workload`` of multi-turn sessions with shared system prompts.

    Sessions start as a Poisson process. A turn's prompt is the whole previous prompt, the previous answer
    and new tokens, so its ``block_hashes`` go on where the previous turn's prompt + answer end. A session
    ends early before a turn that would exceed ``max_model_len``, and after a request that failed.
    ``num_requests`` stops the stream after so many requests (None: all turns of all sessions).

    Each session is planned from a seed of its own at ``reset``: the same seed plans the same sessions,
    whatever the order of completions. Raises ``ValueError`` for settings out of range.
    """

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
        notes = (f"{num_sessions} generated sessions in closed loop",)
        super().__init__(num_sessions, sessions_per_s, num_requests, block_size, slo, notes)
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
        self._turns, self._new_tokens, self._output, self._pause_s = turns, new_tokens, output, pause_s
        self._num_system_tokens = num_system_tokens
        self._group_shares = zipf_shares(num_prefix_groups, group_zipf)
        self._tenant_shares = tenant_shares(num_tenants, tenant_weights)
        self._max_model_len = max_model_len

    def plan(self, rng: np.random.Generator, shared_key: int, own_key: int) -> Plan:
        """Draw a session."""
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
        system = hash_run(shared_key + group * num_system_blocks, num_system_blocks)
        own = hash_run(own_key, num_blocks - num_system_blocks)
        hashes = np.concatenate((system, own))
        ends = (prompts + outputs) // self.block_size
        return Plan(
            tenant, prompts.tolist(), outputs.tolist(), pauses.tolist(), [hashes[:end] for end in ends]
        )


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
