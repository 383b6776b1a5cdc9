"""A mean TTFT that no assignment can beat.

Two relaxations, each of which leaves out something that costs time; the greater of them counts.

*Alone*: every request meets an idle instance, the best for it, which holds as much of its prompt as any
could. It computes the rest in as few steps as the token budget allows, or at the least time per token that
any step has, whichever is longer, and attends to what it must.

*Pooled*: prefill work is shared freely among all instances at once, decode takes no time, and the shortest
job comes first. Let M be the mean of the instants at which a request's work is done. One instance works on it
at a time and takes at least p for it, so that its first token comes at M + p / 2 or later; and no schedule
has a smaller sum of M than the one that always works on the request of least work (mean busy times: Goemans
1997, "Improved approximation algorithms for scheduling with release dates"). It is the greater one under
overload.

Both need the laws of step times to be such as ``envs.emulator.step_time`` says: no coefficient is negative,
and no step is shorter for holding more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.bound.episode import Episode, world_of
from envs.cluster import Request
from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.step_time import step_time_s

Array = NDArray[np.float64]


class Relaxed(NamedTuple):
    """What each request costs on each instance at the least, ``[num_requests, num_instances]``.

    Infinite where a prompt is too long for an instance.
    """

    alone_s: Array
    """Time to its first token, where nobody else is."""
    work_s: Array
    """Time that it takes of the instance, whoever else is there."""


def relaxed(cluster: EmulatedCluster, episode: Episode, closed_loop: bool) -> Relaxed:
    """Each request on each instance, with the best cache that it can find there."""
    world, configs = world_of(cluster), cluster.configs
    in_order = not (
        closed_loop or world.network_jitter_s > 0.0 or any(config.policy == "priority" for config in configs)
    )
    hits = best_hit_tokens(episode.requests, cluster.block_size, in_order)
    num_prompt_tokens = np.array([request.num_prompt_tokens for request in episode.requests])
    known: list[tuple[InstanceConfig, tuple[Array, Array]]] = []
    for config in configs:
        if all(config != other for other, _ in known):
            known.append((config, _times_s(config, num_prompt_tokens, hits)))
    times = [next(each for other, each in known if other == config) for config in configs]
    ways_s = 2.0 * np.broadcast_to(np.asarray(world.network_delay_s, np.float64), len(configs))
    return Relaxed(
        alone_s=np.array([alone_s for alone_s, _ in times]).T + ways_s,
        work_s=np.array([work_s for _, work_s in times]).T,
    )


def least_mean_ttft_s(cluster: EmulatedCluster, episode: Episode, closed_loop: bool) -> float:
    """The greater of both relaxations, for the mean TTFT of an episode's requests.

    In closed loop, where arrivals follow from decisions, only the first holds; where a cap on requests ends
    the loop, it is about the requests that came in this play.
    """
    alone_s, work_s = relaxed(cluster, episode, closed_loop)
    alone_ttft_s = float(alone_s.min(axis=1).mean())
    if closed_loop:
        return alone_ttft_s
    arrived_at_s = np.array([request.arrived_at_s for request in episode.requests])
    return max(alone_ttft_s, _pooled_ttft_s(arrived_at_s, work_s))


def best_hit_tokens(requests: Sequence[Request], block_size: int, in_order: bool) -> NDArray[np.int64]:
    """Prompt tokens that a cache can hold of each request: as long a prefix as another request shares.

    ``in_order``: only of requests before it.
    """
    seen: Counter[int] = Counter()
    if not in_order:
        for request in requests:
            seen.update(request.block_hashes.tolist())
    hits = np.zeros(len(requests), np.int64)
    for number, request in enumerate(requests):
        hashes = request.block_hashes.tolist()
        usable = hashes[: (request.num_prompt_tokens - 1) // block_size]
        least = 0 if in_order else 1
        num = next((place for place, each in enumerate(usable) if seen[each] <= least), len(usable))
        hits[number] = num * block_size
        if in_order:
            seen.update(hashes)
    return hits


def _times_s(
    config: InstanceConfig, num_prompt_tokens: NDArray[np.int64], hits: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Least time to each first token alone, and work that adds up; infinite where a prompt does not fit."""
    law, most_tokens = config.profile.law, config.max_num_batched_tokens
    cached = hits if config.prefix_caching else np.zeros_like(hits)
    tokens = (num_prompt_tokens - cached).astype(np.float64)
    pairs: Array = tokens * (cached + 0.5 * (tokens + 1.0))  # ``attended_pairs`` of each
    steps_s = np.array([step_time_s(law, num, 0.0, 0.0, 0.0) for num in range(1, most_tokens + 1)])
    token_s = float((steps_s / np.arange(1, most_tokens + 1)).min())
    num_steps = np.ceil(tokens / most_tokens)
    far_s = law.prefill_far_s * np.maximum(pairs - law.prefill_far_pairs * tokens, 0.0)
    attention_s = law.prefill_attention_s * pairs
    alone_s = np.maximum(num_steps * steps_s[0], token_s * tokens) + attention_s + far_s
    fits = num_prompt_tokens < config.max_model_len
    return np.where(fits, alone_s, inf), np.where(fits, token_s * tokens + attention_s, inf)


def _pooled_ttft_s(arrived_at_s: Array, work_s: Array) -> float:
    """The second relaxation; ``work_s`` ``[num_requests, num_instances]``."""
    totals_s = np.where(np.isfinite(work_s), work_s, 0.0).sum(axis=0)
    speeds = totals_s.max() / totals_s  # any would do: the work is what is least at these
    work = (work_s * speeds).min(axis=1)
    mean_busy_s = mean_busy_at_s(arrived_at_s, work, float(speeds.sum()))
    return float((mean_busy_s + 0.5 * work_s.min(axis=1) - arrived_at_s).mean())


def mean_busy_at_s(arrived_at_s: Array, work: Array, rate: float) -> Array:
    """The mean instant of each request's work, ``[num_requests]``, where the least work always comes first.

    Args:
        arrived_at_s: Rising, ``[num_requests]``.
        work: Of each, ``[num_requests]``.
        rate: Work done per second.
    """
    busy_s, left = np.zeros(len(work)), work.tolist()
    waiting: list[tuple[float, int]] = []
    now_s = 0.0
    for number, next_s in enumerate([*arrived_at_s.tolist(), inf]):
        while waiting and now_s < next_s:
            size, first = waiting[0]
            until_s = min(now_s + left[first] / rate, next_s)
            busy_s[first] += 0.5 * (now_s + until_s) * (until_s - now_s) * rate / size
            left[first] -= (until_s - now_s) * rate
            if until_s < next_s:
                heappop(waiting)
            now_s = until_s
        now_s = next_s
        if number < len(work):
            heappush(waiting, (work[number], number))
    return busy_s
