"""Counts the tokens of an answer while it passes by, without reading it."""

from __future__ import annotations

import re

_USAGE = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,9})')
"""Of the server's own: within a generated text the quotes would be escaped."""
_TAIL_BYTES = 512


class AnswerMeter:
    """Takes an answer's bytes as they come."""

    def __init__(self) -> None:
        self._num_events = 0
        self._tail = b""

    def take(self, data: bytes) -> None:
        """Look at further bytes."""
        self._num_events += data.count(b"data:")
        self._tail = (self._tail + data)[-_TAIL_BYTES:] if len(data) < _TAIL_BYTES else data[-_TAIL_BYTES:]

    @property
    def num_output_tokens(self) -> int:
        """What the server said that they were, else the number of events, which hold about one each."""
        said = _USAGE.findall(self._tail)
        return int(said[-1]) if said else max(self._num_events - 1, 1)  # the last event says that it is over
