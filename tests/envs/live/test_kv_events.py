"""A subscriber against a real ZMQ publisher that speaks as vLLM's does."""

import asyncio
from pathlib import Path

import msgpack
import zmq
import zmq.asyncio

from envs.live.cache_view import CacheView
from envs.live.kv_events import follow

EVENT = {
    "type": "BlockStored",
    "block_hashes": [7],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 4],
    "block_size": 4,
}


async def _until(view: CacheView, num_batches: int) -> None:
    async with asyncio.timeout(60):
        while view.num_batches < num_batches:
            await asyncio.sleep(0.01)


async def _play(endpoint: str) -> None:
    context = zmq.asyncio.Context()
    view, connected = CacheView(4), asyncio.Event()
    following = asyncio.create_task(follow(endpoint, view, connected))  # before there is a server
    publisher = context.socket(zmq.XPUB)  # as PUB, and hears who subscribes
    publisher.bind(endpoint)
    try:
        await asyncio.wait_for(connected.wait(), 60)
        assert await asyncio.wait_for(publisher.recv(), 60) == b"\x01"  # what was sent before would be lost
        for sequence, batch in enumerate([[0.0, [EVENT], 0], [0.0, [], 0]]):
            payload = msgpack.packb(batch)
            await publisher.send_multipart([b"", sequence.to_bytes(8, "big"), payload])
        await _until(view, 2)
        assert view.num_hit_tokens([1, 2, 3, 4, 5]) == 4
        await publisher.send_multipart([b"", (2).to_bytes(8, "big"), b"\xc1"])
        await publisher.send_multipart([b"", (2).to_bytes(8, "big"), msgpack.packb([0.0, [EVENT], 0])])
        await _until(view, 3)
        assert view.counters() == {
            "num_kv_event_gaps": 0,
            "num_kv_blocks_without_parent": 0,
            "num_malformed_kv_events": 1,
        }
        assert view.num_hit_tokens([1, 2, 3, 4, 5]) == 4
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        publisher.close(linger=0)
        context.term()


def test_batches_arrive(tmp_path: Path) -> None:
    asyncio.run(_play(f"ipc://{tmp_path}/kv"))
