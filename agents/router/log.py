"""One JSON object a line, written a few times a second."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TextIO

Which = Literal["all", "failed", "none"]
EVERY_S = 0.25
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
        self._lines: list[str] = []
        self.num_dropped = 0

    def event(self, what: str, **about: Any) -> None:
        """Tell of something."""
        if len(self._lines) >= MAX_LINES:
            self.num_dropped += 1
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._lines.append(json.dumps({"at": at, "event": what, **about}))

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

    def flush(self) -> None:
        """Write what is there."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()

    async def run(self) -> None:
        """Write every so often, until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                self.flush()
        finally:
            self.flush()
