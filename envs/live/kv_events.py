"""Follow the KV events that a vLLM server publishes over ZMQ.

A message has three frames: topic, sequence number (8 bytes, big-endian) and the batch in msgpack. ZMQ
connects again by itself when a server comes back; what was published meanwhile is lost, and ``CacheView``
sees the gap.
"""

from __future__ import annotations

import asyncio

from envs.live.cache_view import CacheView

try:
    import msgpack
    import zmq
    import zmq.asyncio
    from zmq.utils.monitor import recv_monitor_message
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"KV events need {error.name}, which is not installed: pip install 'routegym[live]'"
    ) from error


async def follow(endpoint: str, view: CacheView, connected: asyncio.Event | None = None) -> None:
    """Take every batch published at ``endpoint`` into ``view``, until cancelled.

    Args:
        endpoint: As the subscriber connects: ``tcp://host:5557`` or ``ipc:///path``.
        view: What it fills; it may be read from other threads meanwhile.
        connected: Set once the connection stands. What is published before it is not received.
    """
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.set_hwm(0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.subscribe(b"")
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        socket.connect(endpoint)
        watch = asyncio.create_task(_watch(monitor, connected))
        try:
            while True:
                frames = await socket.recv_multipart()
                try:
                    sequence = int.from_bytes(frames[1], "big")
                    batch = msgpack.unpackb(frames[2], strict_map_key=False)
                except (ValueError, IndexError, msgpack.UnpackException):
                    view.refuse("frames that are not a batch in msgpack")
                    continue
                view.take(sequence, batch)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)
        context.term()


async def _watch(monitor: zmq.asyncio.Socket, connected: asyncio.Event | None) -> None:
    while True:
        await recv_monitor_message(monitor)
        if connected is not None:
            connected.set()
