"""Prefix hits: what is sent shares what the trace says, and the server and the emulator agree on it."""

import numpy as np
import pytest

from envs.cluster import Request
from envs.live import fleet, twin
from envs.live.prompts import Prompts

from .streamed import metric

pytestmark = pytest.mark.live


def requests(rng, num, block_size):
    """Requests over a few documents, and the blocks each may share with those before it."""
    chains = [rng.integers(1, 2**62, 40) for _ in range(4)]
    for number in range(num):
        depth, own = int(rng.integers(0, 30)), int(rng.integers(0, 5))
        hashes = np.concatenate([chains[int(rng.integers(4))][:depth], rng.integers(1, 2**62, own)])
        tail = int(rng.integers(1, block_size))
        yield Request(number, 0.0, block_size * len(hashes) + tail, int(rng.integers(1, 6)), hashes)


@pytest.mark.parametrize("place", [0, 2], ids=["modelled", "cpu"])
def test_hits_without_overlap_are_exactly_the_emulators(live_servers, place):
    name = list(live_servers.endpoints())[place]
    endpoint = live_servers.endpoints()[name] | {"profile": "h100_llama-3.1-8b"}
    server = live_servers[place]
    live = fleet.cluster({name: endpoint})
    emulated = twin.cluster({name: endpoint})
    block_size = live.traits[0].block_size
    try:
        live.reset(np.random.default_rng(3))
        hits_before = metric(server.port, "vllm:prefix_cache_hits_total")
        total = 0
        for request in requests(np.random.default_rng(7), 40, block_size):
            completions = []
            for cluster in (live, emulated):
                arrived = Request(
                    request.request_id,
                    cluster.now_s,
                    request.num_prompt_tokens,
                    request.num_output_tokens,
                    request.block_hashes,
                )
                expected = cluster.num_exact_hit_tokens(arrived)[0]
                cluster.submit(arrived, 0)
                (completion,) = cluster.drain().completions
                assert not completion.failure
                assert completion.num_cached_tokens == expected
                completions.append(completion)
            one, other = completions
            assert one.num_cached_tokens == other.num_cached_tokens
            assert (one.num_prompt_tokens, one.num_output_tokens) == (
                other.num_prompt_tokens,
                other.num_output_tokens,
            )
            total += one.num_cached_tokens
            live.advance_to(live.now_s + 0.05)  # its KV events are on their way
        assert total > 0
        assert metric(server.port, "vllm:prefix_cache_hits_total") - hits_before == total
        assert not any(count for name, count in live.counters().items() if "kv_" in name)
    finally:
        live.close()


def test_a_follow_up_finds_the_answer_that_was_said(live_servers):
    name, endpoint = next(iter(live_servers.endpoints().items()))
    cluster = fleet.cluster({name: endpoint})
    chain = np.arange(100, 120)
    try:
        cluster.reset(np.random.default_rng(4))
        cluster.submit(Request(0, 0.0, 40, 30, chain[:5]), 0)
        cluster.drain()
        cluster.submit(Request(1, cluster.now_s, 100, 2, chain), 0)
        (completion,) = cluster.drain().completions
        assert completion.num_cached_tokens == 64  # 40 + 30 tokens hold 4 whole blocks
    finally:
        cluster.close()


def test_an_episode_begins_with_a_cold_cache(live_servers):
    name, endpoint = next(iter(live_servers.endpoints().items()))
    cluster = fleet.cluster({name: endpoint})
    assert Prompts(16).block_size == cluster.traits[0].block_size
    try:
        for _ in range(2):
            cluster.reset(np.random.default_rng(5))
            cluster.submit(Request(0, 0.0, 100, 1, np.arange(1, 7)), 0)
            (completion,) = cluster.drain().completions
            assert completion.num_cached_tokens == 0
    finally:
        cluster.close()
