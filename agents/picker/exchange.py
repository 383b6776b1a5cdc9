"""What is said about one request between Envoy and the picker, message by message.

    exchange = Exchange(calls, messages)
    for message in ...:
        replies = exchange.take(message)
    exchange.end()

Of the ways in which Envoy can be told to send a request's body, these let a choice depend on it:

``FULL_DUPLEX_STREAMED``  (the protocol's) the picker takes the whole request before it answers to the
                          headers, and passes the body on itself.
``BUFFERED``              Envoy holds the whole request back, up to its own buffer limit.
``STREAMED``              only together with ``send_body_without_waiting_for_header_response``.

Of an answer's body, ``FULL_DUPLEX_STREAMED`` and ``STREAMED`` are read as it comes, ``BUFFERED`` and
``BUFFERED_PARTIAL`` when it is whole; with ``NONE`` an answer counts as whole once its headers
have come, for Envoy then ends the exchange: what is in flight is then not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agents.picker.call import Call, Calls
from agents.picker.messages import Messages, Modes
from agents.router.refused import RefusedError

FULL_DUPLEX = "FULL_DUPLEX_STREAMED"


class Exchange:
    """One stream of ``ExternalProcessor.Process``.

    Args:
        calls: Where its request is counted.
        messages: Reads and writes.
    """

    def __init__(self, calls: Calls, messages: Messages) -> None:
        self._calls, self._messages = calls, messages
        self._call: Call | None = None
        self._modes = Modes("NONE", "NONE", False)
        self._parts: list[bytes] = []
        self._num_bytes = 0
        self._is_picked = self._is_answered = False
        self.is_over = False
        """Whether the picker has nothing more to say."""
        self._takes: dict[str, Callable[[Any], Iterable[bytes]]] = {
            "request_headers": self._request_headers,
            "request_body": self._request_body,
            "request_trailers": self._request_trailers,
            "response_headers": self._response_headers,
            "response_body": self._response_body,
            "response_trailers": self._response_trailers,
        }

    def take(self, message: Any) -> list[bytes]:
        """Take in a ``ProcessingRequest``; return what to reply, which may be nothing yet."""
        kind = message.WhichOneof("kind")
        try:
            return list(self._takes[kind](message)) if kind is not None else []
        except RefusedError as error:
            self.is_over = True
            if self._call is not None:
                self._call.refused(error)
            return [self._messages.refusal(error)]

    def end(self) -> None:
        """Let go of the request: the stream is over, for whatever reason."""
        if self._call is None:
            return
        if self._is_answered and self._modes.response == "NONE":
            self._call.done()
        self._call.end()

    def _request_headers(self, message: Any) -> Iterable[bytes]:
        if self._call is not None:
            raise _out_of_order()
        messages, (headers, is_all) = self._messages, self._messages.head(message.request_headers)
        modes = self._modes = messages.modes(message)
        method, path = headers.get(":method", ""), headers.get(":path", "")
        self._call = Call(self._calls, method, path, headers, messages.subset(message))
        if is_all:
            return [messages.headers_picked(self._pick())]
        self._bound(_whole_number(headers.get("content-length", "")))
        if modes.request == "BUFFERED":
            return [messages.headers_passed["request"]]
        if modes.request == FULL_DUPLEX or (modes.request == "STREAMED" and modes.is_early):
            return []
        raise RefusedError(
            500,
            "configuration_error",
            f"the filter's request_body_mode is {modes.request}: set it to {FULL_DUPLEX}, or to BUFFERED; "
            "STREAMED needs send_body_without_waiting_for_header_response",
        )

    def _request_body(self, message: Any) -> Iterable[bytes]:
        part = message.request_body
        self._num_bytes += len(part.body)
        self._bound(self._num_bytes)
        self._parts.append(part.body)
        if part.end_of_stream or self._modes.request == "BUFFERED":
            return self._whole(has_trailers=False)
        return []

    def _request_trailers(self, message: Any) -> Iterable[bytes]:
        if not self._is_picked:
            yield from self._whole(has_trailers=True)
        yield self._messages.trailers_passed["request"]

    def _response_headers(self, message: Any) -> Iterable[bytes]:
        messages = self._messages
        headers, is_all = messages.head(message.response_headers)
        if self._call is not None:
            status = _whole_number(headers.get(":status", ""))
            served_by = messages.served_by(message)
            content_type = headers.get("content-type", "")
            self._call.answered(status, content_type, served_by)
            self._is_answered = True
            if is_all:
                self._call.done()
        return [messages.headers_passed["response"]]

    def _response_body(self, message: Any) -> Iterable[bytes]:
        part = message.response_body
        if self._call is not None:
            self._call.take(part.body)
            if part.end_of_stream:
                self._call.done()
        if self._modes.response == FULL_DUPLEX:
            return self._messages.streamed("response", part.body, part.end_of_stream)
        return [self._messages.body_passed["response"]]

    def _response_trailers(self, message: Any) -> Iterable[bytes]:
        if self._call is not None:
            self._call.done()
        return [self._messages.trailers_passed["response"]]

    def _bound(self, num_bytes: int) -> None:
        most = self._calls.settings.max_body_bytes
        if num_bytes > most:
            raise RefusedError(413, "invalid_request_error", f"the body has more than {most} bytes")

    def _pick(self) -> str:
        if self._call is None or self._is_picked:
            raise _out_of_order()
        self._is_picked = True
        return ",".join(self._call.pick(b"".join(self._parts)))

    def _whole(self, has_trailers: bool) -> Iterator[bytes]:
        """Reply to a request of which all has come: headers first, then what there was of a body."""
        messages, mode = self._messages, self._modes.request
        where = self._pick()
        if mode == "BUFFERED":
            yield messages.body_picked(where)
            return
        yield messages.headers_picked(where)
        if mode == FULL_DUPLEX:
            yield from messages.streamed("request", b"".join(self._parts), is_last=not has_trailers)
        else:
            for _ in self._parts:
                yield messages.body_passed["request"]
        self._parts = []


def _whole_number(text: str) -> int:
    """What a header says; 0 where that is no number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _out_of_order() -> RefusedError:
    what = "a request's headers must come first, and once: set the filter's request_header_mode to SEND"
    return RefusedError(500, "configuration_error", what)
