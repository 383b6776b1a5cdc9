"""A small real HTTP server that speaks as vLLM's does, fast, and with faults on demand.

It stands in for vLLM where many streams are wanted at once and where a fault is one that no real server makes
when asked. What it sends is written after vLLM 0.32's ``completion_stream_generator``.

    with FakeVllm(ttft_s=0.01, token_interval_s=0.001) as server:
        ... server.url ...

As a process it prints its url and ends with its stdin:

    python -m tests.envs.live.fake_vllm --ttft-s 0.05 --token-interval-s 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="tiny"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",model_name="tiny",reason="capacity"}} 0.0
vllm:cache_config_info{{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="512"}} 1.0
vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} {usage}
vllm:prefix_cache_queries_total{{engine="0",model_name="tiny"}} {queries}
vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} {hits}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.001",model_name="tiny"}} 0.0
"""
WHOLE = [
    "400",
    "429",
    "500",
    "503",
    "hang",
    "refuse_stream",
    "not_http",
    "error_at_once",
    "no_tokens",
    "no_done",
]
WITHIN = ["cut", "clean_cut", "half_event", "stall", "not_json", "not_sse", "not_vllm", "error_in_stream"]
WITHIN += ["abort"]
FAULTS = [*WHOLE, "bad_usage", *WITHIN]
"""Of requests from the start, at the end, and after some tokens."""


@dataclass
class FakeVllm:
    """Its fields may be set while it runs."""

    ttft_s: float = 0.005
    token_interval_s: float = 0.001
    faults: list[str] = field(default_factory=list)
    """Of the requests to come, in order; an empty one is no fault."""
    fault: str = ""
    """Of all requests after those."""
    fault_after: int = 3
    """Tokens before a fault that comes within a stream."""
    framing: str = "plain"
    """How events are cut into writes: plain, crlf, bytes, one_write, comments."""
    cached_tokens: int | None = 0
    metrics: dict[str, str] = field(default_factory=dict)
    metrics_status: int = 200
    metrics_delay_s: float = 0.0
    health_status: int = 200
    dev_mode: bool = False
    api_key: str = ""
    max_model_len: int = 4096
    port: int = 0

    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    token_at: list[list[float]] = field(default_factory=list)
    """Of each stream, when its tokens were written, on the loop's clock, which is the monotonic one."""
    num_running: int = 0
    num_aborted: int = 0
    num_resets: int = 0
    num_probes: int = 0
    num_scrapes: int = 0

    def __enter__(self) -> FakeVllm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, at the same port as before if there was one."""
        begun: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(begun)), name="fake-vllm")
        self._thread.start()
        begun.result()

    def stop(self) -> None:
        """Break off all connections and listen no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    async def serve(self, begun: Future[None] | None = None) -> None:
        """Serve until ``stop``."""
        self._loop, self._stopped, self._streams = asyncio.get_running_loop(), asyncio.Event(), set()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_post("/reset_prefix_cache", self._reset_prefix_cache)
        quiet = logging.Logger("fake-vllm", logging.CRITICAL)  # its faults are errors to its own framework
        runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.0, access_log=None, logger=quiet
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        if begun is not None:
            begun.set_result(None)
        await self._stopped.wait()
        for transport in list(self._streams):
            transport.abort()
        server = runner.server
        await runner.cleanup()
        for _ in range(10):  # turns, of which what was accepted meanwhile takes some until it is a connection
            for connection in server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # in which what was aborted is closed

    async def _models(self, request: web.Request) -> web.Response:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"data": [{"id": "tiny", "max_model_len": self.max_model_len}]})

    async def _metrics(self, request: web.Request) -> web.Response:
        self.num_scrapes += 1
        await asyncio.sleep(self.metrics_delay_s)
        values = {"running": str(float(self.num_running)), "waiting": "0.0", "usage": "0.25"}
        values |= {"queries": "0.0", "hits": "0.0", **self.metrics}
        return web.Response(text=METRICS.format(**values), status=self.metrics_status)

    async def _health(self, request: web.Request) -> web.Response:
        self.num_probes += 1
        return web.Response(status=self.health_status)

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        self.num_resets += self.dev_mode
        return web.Response(status=200 if self.dev_mode else 404)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        fault = self.faults.pop(0) if self.faults else self.fault
        assert fault in FAULTS or not fault, fault
        if fault.isdigit():
            said = {"error": {"message": f"told {self.api_key}", "code": int(fault)}}
            return web.json_response(said, status=int(fault))
        assert request.transport is not None
        self._streams.add(request.transport)
        self.num_running += 1
        try:
            return await self._stream(request, body, fault)
        except (asyncio.CancelledError, ConnectionResetError):
            self.num_aborted += 1
            raise
        finally:
            self.num_running -= 1
            self._streams.discard(request.transport)

    async def _stream(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        transport = request.transport
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "refuse_stream":
            transport.abort()
        if fault == "not_http":
            transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            await asyncio.sleep(0.1)
            transport.abort()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        stamps: list[float] = []
        self.token_at.append(stamps)
        loop, chat = asyncio.get_running_loop(), "messages" in body
        at = loop.time() + self.ttft_s

        async def write(data: str | dict[str, Any]) -> None:
            data = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
            await self._write(response, f"data: {data}\n\n".encode())

        if fault == "error_at_once":
            await write({"error": {"message": "bad", "code": 400}})
            await write("[DONE]")
            return response
        if chat:
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            await write({"id": "x", "choices": [first]})
        num_tokens = 0 if fault == "no_tokens" else body["max_tokens"]
        for number in range(num_tokens):
            if number == self.fault_after and fault:
                if fault in ("cut", "clean_cut", "stall", "half_event"):
                    if fault == "half_event":
                        await response.write(b'data: {"choices":[{"te')
                    if fault == "stall":
                        await asyncio.sleep(3600)
                    if fault == "clean_cut":
                        return response
                    await asyncio.sleep(0.01)
                    transport.abort()
                    raise ConnectionResetError
                if fault == "not_json":
                    await write('{"choices": [{')
                elif fault == "not_vllm":
                    await write({"choices": [{"words": 3}]})
                elif fault == "not_sse":
                    await response.write(b"<html>Bad Gateway</html>\n\n")
                elif fault == "abort":
                    ended = {"index": 0, "finish_reason": "abort"}
                    await write({"choices": [ended | ({"delta": {}} if chat else {"text": ""})]})
                    await write("[DONE]")
                    return response
                elif fault == "error_in_stream":
                    await write({"error": {"message": "Internal server error", "code": 500}})
                    await write("[DONE]")
                    return response
            if (delay := at - loop.time()) > 0:
                await asyncio.sleep(delay)
            at += self.token_interval_s
            is_last = number == num_tokens - 1
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if is_last else None}
            choice |= {"delta": {"content": "a"}} if chat else {"text": "a"}
            if body.get("return_token_ids"):
                choice["token_ids"] = [100 + number % 100]
                if number == 0:
                    choice["prompt_token_ids"] = body.get("prompt")
            stamps.append(loop.time())
            await write({"id": "x", "object": "text_completion", "model": "tiny", "choices": [choice]})
        if fault == "no_done":
            return response
        prompt = len(body["messages"][0]["content"].split()) + 5 if chat else len(body["prompt"])
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": num_tokens}
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        if fault == "bad_usage":
            usage["completion_tokens"] = -3
        await write({"id": "x", "choices": [], "usage": usage})
        await write("[DONE]")
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        if self.framing == "crlf":
            data = data.replace(b"\n", b"\r\n")
        if self.framing == "comments":
            data = b": still here\n\nevent: message\n" + data
        pieces = [data]
        if self.framing == "bytes":
            pieces = [data[at : at + 1] for at in range(len(data))]
        if self.framing == "one_write":
            self._held = getattr(self, "_held", b"") + data
            pieces = [self._held] if b"[DONE]" in data else []
            self._held = b"" if pieces else self._held
        for piece in pieces:
            await response.write(piece)


@contextmanager
def fakes(count: int, **options: Any) -> Iterator[list[FakeVllm]]:
    """Several of a kind."""
    servers = [FakeVllm(**options) for _ in range(count)]
    for server in servers:
        server.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


async def _until_stdin_ends(server: FakeVllm) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.port:
        await asyncio.sleep(0.01)
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server._stopped.set()
    await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ttft-s", type=float, default=0.05)
    parser.add_argument("--token-interval-s", type=float, default=0.05)
    options = parser.parse_args()
    asyncio.run(_until_stdin_ends(FakeVllm(options.ttft_s, options.token_interval_s)))
