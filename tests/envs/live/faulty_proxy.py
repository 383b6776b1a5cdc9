"""A proxy before a real server, which spoils what passes through it as a test says."""

from __future__ import annotations

import asyncio
import re
import threading
from types import TracebackType

import aiohttp
from aiohttp import web

PASS, HTTP_500, HTTP_429, MALFORMED, CUT, METRICS_GONE, METRICS_NAN, METRICS_NEGATIVE = (
    "pass",
    "http 500",
    "http 429",
    "malformed sse",
    "cut",
    "metrics gone",
    "metrics nan",
    "metrics negative",
)
_GAUGE = re.compile(rb"^(vllm:num_requests_(?:waiting|running)\{[^}]*\}) .*$", re.MULTILINE)


class FaultyProxy:
    """Runs in a thread of its own for as long as a ``with`` block lasts; ``fault`` may change at any time."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.fault = PASS
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty-proxy")

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as self._session:
            self._ready.set()
            await self._stop.wait()
        await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        completing = request.path.startswith("/v1/c")
        if completing and self.fault == HTTP_500:
            return web.json_response({"error": {"message": "spoiled"}}, status=500)
        if completing and self.fault == HTTP_429:
            return web.json_response({"error": {"message": "slow down"}}, status=429)
        if request.path == "/metrics" and self.fault == METRICS_GONE:
            return web.Response(status=404)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self._session.request(
            request.method, self.target + request.path_qs, headers=headers, data=await request.read()
        ) as answer:
            if request.path == "/metrics":
                return web.Response(body=self._spoiled(await answer.read()), content_type="text/plain")
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            num_chunks = 0
            async for chunk in answer.content.iter_any():
                num_chunks += 1
                if completing and num_chunks == 3 and self.fault == MALFORMED:
                    chunk = b'data: {"choices": [{"te\n\n'
                if completing and num_chunks == 3 and self.fault == CUT:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                await response.write(chunk)
            await response.write_eof()
            return response

    def _spoiled(self, metrics: bytes) -> bytes:
        if self.fault == METRICS_NAN:
            return _GAUGE.sub(rb"\1 NaN", metrics)
        if self.fault == METRICS_NEGATIVE:
            return _GAUGE.sub(rb"\1 -3.0", metrics)
        return metrics
