"""One JSON object a line, written a few times a second, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, Literal, Protocol, TextIO

Which = Literal["all", "failed", "none"]
EVERY_S = 0.25
END_S = 1.0
"""For what is left to be written at the end."""
MAX_LINES = 10_000
"""Held while the reader is slow; further ones are dropped and counted."""


class Logged(Protocol):
    """What a line about a request tells of."""

    request_id: str
    path: str
    instance_name: str
    reason: str
    failure: str
    num_attempts: int
    ttft_s: float


class Handler(logging.Handler):
    """Passes on what libraries log, a line each: of errors their last line, not their tracebacks."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Take one in."""
        error = record.exc_info[1] if record.exc_info else None
        about = {} if error is None else {"error": f"{type(error).__name__}: {error}"}
        said = record.getMessage()
        self._log.event("log", level=record.levelname, logger=record.name, message=said, **about)


class Log:
    """Collects lines and writes them.

    Args:
        which: Of the requests: all, those that failed or were tried again, or none. Other events are always
            told of.
        stream: Where to.
    """

    def __init__(self, which: Which, stream: TextIO | None = None) -> None:
        if which not in ("all", "failed", "none"):
            raise ValueError(f"log_requests is {which!r}, it must be all, failed or none")
        self._which, self._stream = which, stream or sys.stderr
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.num_dropped = 0
        """Lines that were not written: the reader is slow, or gone."""

    def event(self, what: str, **about: Any) -> None:
        """Tell of something."""
        if self._lines.qsize() >= MAX_LINES:
            self.num_dropped += 1
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._lines.put(json.dumps({"at": at, "event": what, **about}))

    def request(self, call: Logged, status: int, duration_s: float) -> None:
        """Tell of a request that is over."""
        if self._which == "none" or (self._which == "failed" and status < 400 and call.num_attempts < 2):
            return
        self.event(
            "request",
            id=call.request_id,
            path=call.path,
            status=status,
            duration_s=round(duration_s, 6),
            ttft_s=None if call.ttft_s != call.ttft_s else round(call.ttft_s, 6),
            instance=call.instance_name,
            heuristic_because=call.reason,
            num_attempts=call.num_attempts,
            failure=call.failure,
        )

    def take_over(self) -> None:
        """Let what this process's libraries log come here, and nowhere else."""
        logging.basicConfig(handlers=[Handler(self)], level=logging.WARNING, force=True)

    async def run(self) -> None:
        """Write until cancelled, in a thread: a reader who is slow keeps nobody waiting."""
        writing = threading.Thread(target=self._write, name="routegym-log", daemon=True)
        writing.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._lines.put(None)
            writing.join(END_S)

    def _write(self) -> None:
        is_over = False
        while not is_over:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(EVERY_S)
            with contextlib.suppress(Empty):
                while len(lines) < MAX_LINES:
                    lines.append(self._lines.get_nowait())
            is_over = None in lines
            told = [line for line in lines if line is not None]
            try:
                if told:
                    self._stream.write("\n".join(told) + "\n")
                    self._stream.flush()
            except (OSError, ValueError):  # the reader has gone
                self.num_dropped += len(told)
