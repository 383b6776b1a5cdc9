"""The OpenAI-compatible front: takes requests, asks the desk where they go, and streams the answers back."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Awaitable
from dataclasses import dataclass, fields
from time import perf_counter
from uuid import uuid4

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from agents.hyperparameters import check_positive
from agents.router import headers
from agents.router.answer_meter import AnswerMeter
from agents.router.asked import Asked, BadRequestError, Identity, asked
from agents.router.desk import Desk, NoInstanceError, Ticket
from agents.router.fleet import Instance
from agents.router.front import Front
from agents.router.log import Log
from agents.router.refused import RefusedError
from envs.live.client import NoAnswerError, raise_as_no_answer
from envs.live.stream import LARGE

ROUTED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
RETRIED_STATUSES = frozenset((500, 502, 503, 504))
"""Of an instance's answer: it could not do it, another one may."""
REQUEST_ID = "X-Request-Id"
DEADLINE = "not done in time"
CLOSE_S = 5.0
"""For a client to read why its stream breaks off."""
CLIENT_GONE = 499
"""Status in logs and metrics of a request whose client did not wait; nobody is sent it."""


@dataclass(frozen=True)
class ProxySettings:
    """Limits of what clients may ask, and for how long it is tried."""

    max_body_bytes: int = 8 << 20
    body_timeout_s: float = 30.0
    """For the whole body of a request to come."""
    idle_timeout_s: float = 75.0
    """For the headers of a connection's next request to come."""
    max_header_bytes: int = 16 << 10
    """Of one header, and of the request line."""
    request_timeout_s: float = 600.0
    """For the whole answer, retries included."""
    first_byte_timeout_s: float = 120.0
    """For the first byte of a streamed answer from one instance."""
    token_timeout_s: float = 120.0
    """For each further one of a stream."""
    client_timeout_s: float = 60.0
    """For a client to take what it is sent."""
    num_retries: int = 1
    """Further instances that are tried where one failed before it had sent a byte."""

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        durations = [entry.name for entry in fields(self) if entry.name.endswith("_s")]
        check_positive(**{f"proxy.{name}": getattr(self, name) for name in durations})
        for name, least in (("max_body_bytes", 1), ("max_header_bytes", 512), ("num_retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"proxy.{name} is {getattr(self, name)}, it must be at least {least}")


class Proxy(Front):
    """Handles requests; ``handle`` is what ``aiohttp.web.Server`` calls.

    Args:
        desk: Decides.
        settings: Limits.
        identity: How sessions and tenants are known.
        log: Where a line for each request goes.
    """

    def __init__(self, desk: Desk, settings: ProxySettings, identity: Identity, log: Log) -> None:
        super().__init__(desk, identity, log)
        self.settings = settings
        self.is_draining = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        path = request.path
        if path in ROUTED and request.method == "POST":
            if self.is_draining:
                response = _error(503, "overloaded_error", "this router is ending; ask another")
                response.force_close()
                return response
            return await self._routed(request, path)
        if path == "/v1/models" and request.method == "GET":
            return self._models()
        if path in ROUTED or path == "/v1/models":
            return _error(405, "invalid_request_error", f"{request.method} is not for {path}")
        return _error(404, "not_found_error", f"there is no {path}; this router has {', '.join(ROUTED)}")

    async def _routed(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        began_s = perf_counter()
        request_id = request.headers.get(REQUEST_ID) or uuid4().hex
        self.num_in_flight += 1
        call = _Call(self, request, path, request_id)
        status = 500  # aiohttp's answer where something is wrong with the router itself
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                response = await call.answer()
            status = response.status
            return response
        except RefusedError as error:
            status = error.status
            return _error(status, error.kind, str(error), request_id)
        except TimeoutError:
            call.lose(DEADLINE)
            what = f"no answer within {self.settings.request_timeout_s:g} s"
            if call.response is not None:
                status = call.response.status
                self.counts["num_broken_off"] += 1
                await _break_off(request, call.response, "timeout_error", what)
                return call.response
            status = 504
            return _error(status, "timeout_error", what, request_id)
        except (asyncio.CancelledError, ConnectionError):
            status = CLIENT_GONE
            call.lose("client has gone")
            raise
        finally:
            call.lose("error in the router")
            self.num_in_flight -= 1
            self.statuses[status] += 1
            self.log.request(call, status, perf_counter() - began_s)

    def _models(self) -> web.Response:
        models = [{"id": name, "object": "model", "owned_by": "vllm"} for name in self.desk.fleet.models()]
        return web.json_response({"object": "list", "data": models})


class _Call:
    """One request on its way."""

    def __init__(self, proxy: Proxy, request: web.BaseRequest, path: str, request_id: str) -> None:
        self.proxy, self.request, self.path, self.request_id = proxy, request, path, request_id
        self.arrived_at_s = proxy.desk.fleet.clock.now_s
        self.asked: Asked | None = None
        self.ticket: Ticket | None = None
        """Of the attempt that is under way."""
        self.response: web.StreamResponse | None = None
        """Once its first byte was sent."""
        self.num_attempts = 0
        self.instance_name, self.reason, self.failure = "", "", ""
        self.ttft_s = float("nan")

    async def answer(self) -> web.StreamResponse:
        """Read the body, and try instances until one answers."""
        proxy, settings = self.proxy, self.proxy.settings
        body = await self._body()
        try:
            self.asked = asked(self.path, body, self.request.headers, proxy.identity)
        except BadRequestError as error:
            raise RefusedError(400, "invalid_request_error", str(error)) from None
        tried: list[Instance] = []
        ticket = proxy.desk.send(self.asked, self.arrived_at_s)
        while True:
            self.ticket = ticket
            self.num_attempts += 1
            self.instance_name, self.reason = ticket.instance.endpoint.name, ticket.choice.reason
            try:
                return await self._attempt(ticket, body, is_last=len(tried) == settings.num_retries)
            except NoAnswerError as error:
                self.failure = f"instance {self.instance_name}: {error}"
                proxy.desk.fleet.notices.note(self.instance_name, str(error))
                self.ticket = None
                tried.append(ticket.instance)
                if self.response is not None:
                    proxy.desk.failed(ticket, error.is_down, str(error))
                    proxy.counts["num_broken_off"] += 1
                    await _break_off(self.request, self.response, "bad_gateway_error", self.failure)
                    return self.response
                if len(tried) > settings.num_retries:
                    proxy.desk.failed(ticket, error.is_down, str(error))
                    raise RefusedError(502, "bad_gateway_error", self.failure) from None
                try:
                    ticket = proxy.desk.again(ticket, self.asked, tried, error.is_down, str(error))
                except NoInstanceError as none:
                    raise RefusedError(502, "bad_gateway_error", f"{self.failure}; {none}") from None
                proxy.counts["num_retries"] += 1

    def lose(self, why: str) -> None:
        """Let go of the attempt under way, if there is one."""
        if self.ticket is None:
            return
        self.failure = self.failure or why
        if why == DEADLINE:
            self.proxy.desk.failed(self.ticket, self.response is None, why)
        else:
            self.proxy.desk.gave_up(self.ticket)
        self.ticket = None

    async def _body(self) -> bytes:
        request, settings = self.request, self.proxy.settings
        too_large = RefusedError(
            413, "invalid_request_error", f"the body has more than {settings.max_body_bytes} bytes"
        )
        if (request.content_length or 0) > settings.max_body_bytes:
            raise too_large
        content = request.content
        if content.is_eof():  # all of it came with the headers
            body = content.read_nowait()
        else:
            parts, num_bytes = [], 0
            try:
                async with asyncio.timeout(settings.body_timeout_s):
                    while part := await content.readany():
                        num_bytes += len(part)
                        if num_bytes > settings.max_body_bytes:
                            raise too_large
                        parts.append(part)
            except TimeoutError:
                within = f"{settings.body_timeout_s:g} s"
                raise RefusedError(408, "timeout_error", f"the body did not come within {within}") from None
            body = b"".join(parts)
        if len(body) > settings.max_body_bytes:
            raise too_large
        return body

    async def _attempt(self, ticket: Ticket, body: bytes, is_last: bool) -> web.StreamResponse:
        """Send it to one instance and pass its answer on. Raises ``NoAnswerError`` where there is none."""
        assert self.asked is not None
        settings = self.proxy.settings
        # Of an answer in one piece the first byte comes with the last.
        within_s = settings.first_byte_timeout_s if self.asked.is_stream else settings.request_timeout_s
        try:
            async with asyncio.timeout(within_s) as timer:
                try:
                    answer = await self._send(ticket, body)
                    try:
                        if answer.status in RETRIED_STATUSES and not is_last:
                            raise NoAnswerError(f"http {answer.status}", answer.status)
                        try:
                            passed = headers.to_client(answer.headers.items())
                        except ValueError as error:
                            raise NoAnswerError(str(error), answer.status) from None
                        if answer.content_type == "text/event-stream":
                            return await self._stream(ticket, answer, passed, timer)
                        return await self._whole(ticket, answer, passed)
                    finally:
                        if not answer.content.at_eof():
                            answer.close()  # at which vLLM aborts the request
                except (aiohttp.ClientError, OSError) as error:
                    raise_as_no_answer(error, "no connection in time")
        except TimeoutError:
            if self.response is not None:
                within_s = settings.token_timeout_s
            raise NoAnswerError(f"no byte for {within_s:g} s") from None

    async def _send(self, ticket: Ticket, body: bytes) -> aiohttp.ClientResponse:
        endpoint, request = ticket.instance.endpoint, self.request
        own = {REQUEST_ID: self.request_id}
        passed = headers.to_instance(request.headers.items(), request.headers.get("Connection", ""), own)
        if endpoint.api_key_env is not None:
            passed.popall("Authorization", None)  # the session has the instance's
        session = ticket.instance.client.session
        data = io.BytesIO(body) if len(body) >= LARGE else body
        return await session.post(
            endpoint.url + request.path_qs, data=data, headers=passed, allow_redirects=False
        )

    async def _stream(
        self,
        ticket: Ticket,
        answer: aiohttp.ClientResponse,
        passed: CIMultiDict[str],
        timer: asyncio.Timeout,
    ) -> web.StreamResponse:
        """Pass on events as they come."""
        desk, meter, content = self.proxy.desk, AnswerMeter(), answer.content
        data = await content.readany()
        if not data:
            raise NoAnswerError("a stream without a byte")
        desk.first_token(ticket)
        self.ttft_s = desk.fleet.clock.now_s - self.arrived_at_s
        loop, within_s = asyncio.get_running_loop(), self.proxy.settings.token_timeout_s
        timer.reschedule(None)  # what the client takes is not the instance's time
        response = web.StreamResponse(status=answer.status, headers=passed)
        self.response = response
        await self._to_client(response.prepare(self.request))
        while data:
            meter.take(data)
            await self._to_client(response.write(data))
            timer.reschedule(loop.time() + within_s)
            data = await content.readany()
            timer.reschedule(None)
        self._done(ticket, answer.status, meter.num_output_tokens, self.ttft_s)
        await self._to_client(response.write_eof())
        return response

    async def _whole(
        self, ticket: Ticket, answer: aiohttp.ClientResponse, passed: CIMultiDict[str]
    ) -> web.StreamResponse:
        """Pass on an answer that comes in one piece."""
        meter = AnswerMeter()
        data = await answer.read()
        meter.take(data)
        self._done(ticket, answer.status, meter.num_output_tokens, None)
        return web.Response(status=answer.status, headers=passed, body=data)

    def _done(self, ticket: Ticket, status: int, num_output_tokens: int, ttft_s: float | None) -> None:
        """Note that an answer is whole: the last one's own error counts as the failure that it is."""
        if status in RETRIED_STATUSES:
            self.failure = f"instance {self.instance_name}: http {status}"
            self.proxy.desk.failed(ticket, True, f"http {status}")
        else:
            self.proxy.desk.served(ticket, num_output_tokens, ttft_s)
        self.ticket = None

    async def _to_client(self, writing: Awaitable[object]) -> None:
        """Write; where the client has gone, or does not read, end as if it had been noticed before."""
        try:
            async with asyncio.timeout(self.proxy.settings.client_timeout_s):
                await writing
        except TimeoutError:
            if self.request.transport is not None:
                self.request.transport.abort()
            raise asyncio.CancelledError from None
        except (aiohttp.ClientConnectionError, ConnectionError):
            raise asyncio.CancelledError from None


async def _break_off(request: web.BaseRequest, response: web.StreamResponse, kind: str, message: str) -> None:
    """Say why a stream ends, as vLLM does, and close the connection without its end.

    So a client that does not read the error does not take the answer for whole.
    """
    error = RefusedError(502, kind, message).body
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await response.write(f"\n\ndata: {error}\n\n".encode())  # what was begun may be half an event
    if (transport := request.transport) is not None:
        transport.close()  # once the client has read all, or ...
        asyncio.get_running_loop().call_later(CLOSE_S, transport.abort)


def _error(status: int, kind: str, message: str, request_id: str = "") -> web.Response:
    """An answer of the router's own, in the form of OpenAI's."""
    refused = RefusedError(status, kind, message)
    own = {REQUEST_ID: request_id} if request_id else {}
    return web.Response(status=status, text=refused.body, headers=refused.headers | own)
