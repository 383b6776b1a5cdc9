"""The prefix-cache hit rate that no routing policy can exceed."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.workload.trace import Trace


@njit(cache=True)
def _num_hits(
    content: NDArray[np.int64], offsets: NDArray[np.int64], limits: NDArray[np.int64], num_contents: int
) -> int:
    seen = np.zeros(num_contents, np.bool_)
    num = 0
    for request in range(len(limits)):
        first, last = offsets[request], offsets[request + 1]
        at = first
        while at < min(last, first + limits[request]) and seen[content[at]]:
            at += 1
        num += at - first
        seen[content[first:last]] = True
    return num


def ideal_hit_rate(trace: Trace, block_size: int = 0) -> float:
    """Hit rate of one infinite cache that starts cold and sees the whole trace, in [0, 1].

    With ``block_size`` 0: blocks hit over blocks asked, in the trace's own blocks, a partial one counting
    whole, as published figures count. Else: cached tokens over prompt tokens at that block size, as a
    cluster's ledger counts: full blocks only, and a prompt's last token is always computed.
    """
    if len(trace.hash_ids) == 0:
        return 0.0
    hashes, offsets = trace.expanded(block_size) if block_size else (trace.hash_ids, trace.hash_offsets)
    contents, content = np.unique(hashes, return_inverse=True)
    limits = (trace.num_prompt_tokens - 1) // block_size if block_size else np.diff(offsets)
    num_hits = _num_hits(content, offsets, limits, len(contents))
    if block_size:
        return num_hits * block_size / int(trace.num_prompt_tokens.sum())
    return num_hits / len(hashes)
