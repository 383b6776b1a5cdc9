"""What runs until it is told to stop, in an event loop and a thread of its own."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress


@contextmanager
def in_thread(make, name):
    """``make()`` is called in the loop; what it gives is started, yielded and stopped.

    ``stop_soon`` tells it to, before the block ends.
    """
    begun, loop_of = Future(), {}

    async def run():
        loop_of["loop"], loop_of["stop"] = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = make()
            await server.start()
        except BaseException as error:
            begun.set_exception(error)
            return
        server.stop_soon = lambda: loop_of["loop"].call_soon_threadsafe(loop_of["stop"].set)
        begun.set_result(server)
        await loop_of["stop"].wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name=name)
    thread.start()
    try:
        yield begun.result(timeout=30)
    finally:
        with suppress(RuntimeError):  # it has ended
            loop_of["loop"].call_soon_threadsafe(loop_of["stop"].set)
        thread.join(timeout=30)
        assert not thread.is_alive()
