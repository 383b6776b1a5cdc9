"""A backend that answers at once: what is measured is the router in front of it.

python -m tests.benchmarks.router.backend PORT
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

METRICS = """\
vllm:num_requests_running{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 0.0
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="65536"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.1
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 0.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 0.0
"""
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "length"}
USAGE = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
ANSWER = json.dumps(
    {"id": "x", "object": "chat.completion", "model": "tiny", "choices": [CHOICE], "usage": USAGE}
)
DELTA = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
CHUNK = {"id": "x", "object": "chat.completion.chunk", "model": "tiny", "choices": [DELTA]}
EVENT = f"data: {json.dumps(CHUNK)}\n\n"
NUM_EVENTS = 16
"""Of a streamed answer, each written by itself."""


async def handle(request: web.BaseRequest) -> web.StreamResponse:
    """Answer as vLLM would, without thinking."""
    if request.method == "GET":
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "tiny", "max_model_len": 131072}]})
        if request.path == "/metrics":
            return web.Response(text=METRICS)
        return web.json_response({"model_id": "tiny", "status": "ok"})
    body = json.loads(await request.read())
    if not body.get("stream"):
        return web.Response(text=ANSWER, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(NUM_EVENTS):
        await response.write(EVENT.encode())
        await asyncio.sleep(0)
    await response.write(b"data: [DONE]\n\n")
    return response


async def serve(port: int) -> None:
    """Listen until killed, or until stdin ends."""
    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
