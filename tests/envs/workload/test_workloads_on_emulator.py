"""The stream protocol's own loop, run against one emulated engine that can hold everything."""

from itertools import pairwise

import numpy as np

from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.profile import load
from envs.workload.generator import generate
from envs.workload.hit_rate import ideal_hit_rate
from envs.workload.laws import LogNormal
from envs.workload.replay import Replay
from envs.workload.sessions import Sessions


def served(workload, seed=0):
    """Return (request, completion) pairs of one stream."""
    engine = InstanceConfig(
        load("h100_llama-3.1-8b"), num_blocks=200_000, max_num_seqs=256, max_num_batched_tokens=8192
    )
    cluster = EmulatedCluster([engine])
    requests, completions = {}, []
    workload.reset(np.random.default_rng(seed))
    while not workload.exhausted:
        events = cluster.advance_to(workload.next_arrival_at_s(), stop_at_completion=workload.closed_loop)
        completions += events.completions
        for completion in events.completions:
            workload.observe(completion)
        if workload.closed_loop and events.completions:
            continue
        request = workload.pop()
        requests[request.request_id] = request
        cluster.submit(request, 0)
    completions += cluster.drain().completions
    return [(requests[c.request_id], c) for c in completions]


def test_one_big_cache_reaches_the_ideal_hit_rate():
    rng = np.random.default_rng(0)
    prompt = LogNormal(1000, 1.0, 20, 8000)
    trace = generate(rng, num_requests=150, prompt=prompt, num_prefix_groups=5, hash_block_tokens=64)
    pairs = served(Replay(trace, rate_factor=0.01))  # one at a time
    num_cached = sum(completion.num_cached_tokens for _, completion in pairs)
    num_prompt = sum(completion.num_prompt_tokens for _, completion in pairs)
    assert num_cached / num_prompt == ideal_hit_rate(trace, 16) > 0.25


def test_next_turn_hits_the_previous_prompt_and_answer():
    stream = Sessions(
        num_sessions=10, turns=LogNormal(5, 0.0, 5, 5), output=LogNormal(50, 0.5, 1, 200), num_prefix_groups=1
    )
    pairs = served(stream)
    assert len(pairs) == stream.num_requests
    pairs.sort(key=lambda pair: (pair[0].session_id, pair[0].turn))
    for (before, _), (after, completion) in pairwise(pairs):
        if after.turn == 1:
            assert completion.num_cached_tokens in (0, 2048)
            continue
        num_computed = before.num_prompt_tokens + before.num_output_tokens - 1  # the last token never is
        num_blocks = min(num_computed, after.num_prompt_tokens - 1) // 16
        assert completion.num_cached_tokens == 16 * num_blocks
