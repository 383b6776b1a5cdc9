"""Server-sent events out of a stream of bytes that is cut anywhere.

The format is that of the HTML standard (section 9.2.6), of which vLLM uses ``data`` lines and blank ones. A
line that is no field at all, which the standard would pass over, is an error here: something other than a
server of events has answered.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 32 << 20
_FIELDS = (b"event", b"id", b"retry")


class MalformedStreamError(ValueError):
    """Bytes that are no stream of events, or not of those that vLLM sends."""


class EventParser:
    """Takes bytes as they come and yields the data of events that are whole."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []  # of a line whose end has not come
        self._data: list[bytes] = []  # lines of an event whose end has not come
        self._num_bytes = 0  # of both

    @property
    def is_between_events(self) -> bool:
        """Whether nothing of an event has come that is not whole."""
        return not self._begun and not self._data

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of the events that end in ``data``; to be read to its end.

        Raises ``MalformedStreamError`` where they end to be events: what came before is yielded first, so
        that it does not matter how the stream was cut.
        """
        self._num_bytes += len(data)
        if self._num_bytes > MAX_EVENT_BYTES:
            raise MalformedStreamError(f"an event of more than {MAX_EVENT_BYTES >> 20} MiB")
        if b"\n" not in data:
            if data:
                self._begun.append(data)
            return
        *lines, begun = b"".join((*self._begun, data)).split(b"\n")
        self._begun = [begun] if begun else []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    event, self._data = b"\n".join(self._data), []
                    yield event
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line.startswith(b":") and line.partition(b":")[0] not in _FIELDS:
                raise MalformedStreamError("a line that is no field")
        self._num_bytes = len(begun) + sum(map(len, self._data))
