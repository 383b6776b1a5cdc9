"""Envoy's messages, read and written: ``ProcessingRequest`` and ``ProcessingResponse`` of ``ext_proc``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from agents.picker.destination import KEY, NAMESPACE, SERVED_KEY, SUBSET_KEY, SUBSET_NAMESPACE
from agents.picker.wire import BODY_MODES, OVERWRITE_IF_EXISTS_OR_ADD, message_classes
from agents.router.refused import RefusedError

Side = Literal["request", "response"]
SIDES: tuple[Side, ...] = ("request", "response")
MODES = dict(enumerate(BODY_MODES))
MOST_CHUNK_BYTES = 62_000
"""Of a body that is passed on; Envoy recommends up to 64 KiB."""
NUM_KEPT = 1024
"""Answers that are kept ready: one for each destination."""


class Modes(NamedTuple):
    """How Envoy sends bodies, as its filter is configured."""

    request: str
    response: str
    is_early: bool
    """Whether bodies come before their headers were answered (``send_body_without_waiting...``)."""


class Head(NamedTuple):
    """The headers of a request or of an answer."""

    headers: dict[str, str]
    is_all: bool
    """Whether no body follows."""


class Messages:
    """Reads them, and writes them in bytes.

    Raises ``ValueError`` where protobuf is not installed.
    """

    def __init__(self) -> None:
        try:
            self._pb = SimpleNamespace(**message_classes())
        except ImportError as error:
            raise ValueError(
                f"the picker needs {error.name}, which is not installed: pip install 'routegym[picker]'"
            ) from error
        self.read: Callable[[bytes], Any] = self._pb.ProcessingRequest.FromString
        passed, no_trailers = self._pb.CommonResponse(), self._pb.TrailersResponse()
        self.headers_passed = {side: self._written(side, "headers", passed) for side in SIDES}
        self.body_passed = {side: self._written(side, "body", passed) for side in SIDES}
        self.trailers_passed = {
            side: bytes(self._pb.ProcessingResponse(**{f"{side}_trailers": no_trailers}).SerializeToString())
            for side in SIDES
        }
        self.headers_picked = lru_cache(NUM_KEPT)(lambda where: self._picked("headers", where))
        """Of a destination: the answer to a request's headers."""
        self.body_picked = lru_cache(NUM_KEPT)(lambda where: self._picked("body", where))
        """The answer to a body that Envoy holds back together with the headers."""

    def modes(self, message: Any) -> Modes:
        """What the first message says; Envoys that are too old to say are taken to hold bodies back."""
        if not message.HasField("protocol_config"):
            return Modes("BUFFERED", "STREAMED", False)
        said = message.protocol_config
        known = MODES
        return Modes(
            known.get(said.request_body_mode, str(said.request_body_mode)),
            known.get(said.response_body_mode, str(said.response_body_mode)),
            said.send_body_without_waiting_for_header_response,
        )

    def head(self, message: Any) -> Head:
        """Of a message with ``HttpHeaders``."""
        headers = {
            header.key: header.raw_value.decode("latin-1") or header.value
            for header in message.headers.headers
        }
        return Head(headers, message.end_of_stream)

    def subset(self, message: Any) -> list[str] | None:
        """The addresses of the subset hint, as they are; None without one."""
        held = _metadata(message, SUBSET_NAMESPACE, SUBSET_KEY)
        if held is None:
            return None
        values = held.list_value.values if held.HasField("list_value") else [held]
        return [part.strip() for value in values for part in value.string_value.split(",") if part.strip()]

    def served_by(self, message: Any) -> str:
        """The address that the answer came from; empty: it was not said."""
        held = _metadata(message, NAMESPACE, SERVED_KEY)
        return "" if held is None else str(held.string_value)

    def streamed(self, side: Side, body: bytes, is_last: bool) -> Iterator[bytes]:
        """Pass on a piece of a body that Envoy does not keep (``FULL_DUPLEX_STREAMED``)."""
        pb = self._pb
        for start in range(0, max(len(body), 1), MOST_CHUNK_BYTES):
            part = body[start : start + MOST_CHUNK_BYTES]
            ends = is_last and start + MOST_CHUNK_BYTES >= len(body)
            response = pb.StreamedBodyResponse(body=part, end_of_stream=ends)
            common = pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=response))
            yield self._written(side, "body", common)

    def refusal(self, error: RefusedError) -> bytes:
        """Let Envoy answer with an error."""
        immediate = self._pb.ImmediateResponse(
            body=error.body.encode(), details=f"routegym_{error.kind}", headers=self._headers(error.headers)
        )
        immediate.status.code = error.status
        return bytes(self._pb.ProcessingResponse(immediate_response=immediate).SerializeToString())

    def _picked(self, part: str, where: str) -> bytes:
        common = self._pb.CommonResponse(header_mutation=self._headers({KEY: where}), clear_route_cache=True)
        metadata = {NAMESPACE: {KEY: where}}
        return self._written("request", part, common, dynamic_metadata=metadata)

    def _written(self, side: str, part: str, common: Any, **more: Any) -> bytes:
        kind = self._pb.HeadersResponse if part == "headers" else self._pb.BodyResponse
        answer = self._pb.ProcessingResponse(**{f"{side}_{part}": kind(response=common)}, **more)
        return bytes(answer.SerializeToString())

    def _headers(self, headers: dict[str, str]) -> Any:
        """Set, in place of what the client may have sent under these names."""
        mutation = self._pb.HeaderMutation()
        for key, value in headers.items():
            option = mutation.set_headers.add()
            option.header.key, option.header.raw_value = key.lower(), value.encode("latin-1")
            option.append_action = OVERWRITE_IF_EXISTS_OR_ADD
        return mutation


def _metadata(message: Any, namespace: str, key: str) -> Any:
    """A value of the metadata that came with a message; None: there is none."""
    spaces = message.metadata_context.filter_metadata
    if namespace not in spaces:
        return None
    fields = spaces[namespace].fields
    return fields.get(key)
