"""An asyncio loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from envs.live.quick_switching import quick_switching

Answer = TypeVar("Answer")
JOIN_TIMEOUT = 10.0  # seconds
_log = logging.getLogger(__name__)


class LoopThread:
    """Runs until ``stop``.

    Args:
        close: Run there at the end; what it leaves is cancelled.
        on_error: Told in that thread of what nobody else would hear of.

    Raises:
        OSError: The loop cannot start, as without file descriptors.
    """

    def __init__(
        self, close: Callable[[], Coroutine[Any, Any, None]], on_error: Callable[[BaseException], None]
    ) -> None:
        begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(
            target=_run, args=(begun, close, on_error), name="routegym-live", daemon=True
        )
        self._thread.start()
        self._loop, self._stopped = begun.result()

    def call(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine there, wait for it and return what it returns; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Let a function be called there soon."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """End the loop and wait for the thread; may be called again, and from any thread but its own."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._stopped.set)
            if self._thread is not threading.current_thread():
                self._thread.join(JOIN_TIMEOUT)


def _run(
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]],
    close: Callable[[], Coroutine[Any, Any, None]],
    on_error: Callable[[BaseException], None],
) -> None:
    async def main() -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda _, context: _handle(context, on_error))
        begun.set_result((loop, stopped))
        await stopped.wait()
        await close()

    try:
        with quick_switching(), asyncio.Runner() as runner:
            runner.run(main())
    except BaseException as error:
        if not begun.done():
            begun.set_exception(error)
        on_error(error)
    on_error(RuntimeError("it has ended"))  # should anybody still wait for something


def _handle(context: dict[str, Any], on_error: Callable[[BaseException], None]) -> None:
    """Take what asyncio tells of an error that was nobody's; the network's own are told to who uses it."""
    error = context.get("exception")
    if isinstance(error, OSError):
        _log.warning("%s: %s", context["message"], type(error).__name__)
    else:
        on_error(error if isinstance(error, BaseException) else RuntimeError(context["message"]))
