"""A bounded load of chat requests, in a closed loop, and what it met with.

    python -m tests.benchmarks.router.load URL NUM_CLIENTS NUM_REQUESTS [stream]

Prompts have 2 kB; half of each is one of sixteen that are shared. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np

NUM_SHARED = 16
PROMPT_BYTES = 2000
TIMEOUT_S = 60.0


def bodies(num: int, stream: bool) -> list[bytes]:
    """Requests to send, always the same."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", np.uint8)

    def text() -> str:
        return rng.choice(letters, PROMPT_BYTES // 2).tobytes().decode()

    shared = [text() for _ in range(NUM_SHARED)]
    made = []
    for number in range(num):
        content = shared[int(rng.integers(NUM_SHARED))] + text() + str(number)
        message = [{"role": "user", "content": content}]
        made.append(
            json.dumps({"model": "tiny", "messages": message, "max_tokens": 1, "stream": stream}).encode()
        )
    return made


async def run(url: str, num_clients: int, num_requests: int, stream: bool) -> dict[str, Any]:
    """Send them; return latencies and errors."""
    todo = bodies(num_requests, stream)
    latencies_s: list[float] = []
    first_bytes_s: list[float] = []
    errors: dict[str, int] = {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client() -> None:
            while todo:
                body = todo.pop()
                began_s = perf_counter()
                try:
                    async with session.post(
                        url + "/v1/chat/completions",
                        data=body,
                        headers={"Content-Type": "application/json"},
                    ) as response:
                        await response.content.readany()
                        first_bytes_s.append(perf_counter() - began_s)
                        await response.read()
                        if response.status != 200:
                            errors[str(response.status)] = errors.get(str(response.status), 0) + 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    name = type(error).__name__
                    errors[name] = errors.get(name, 0) + 1
                latencies_s.append(perf_counter() - began_s)

        began_s = perf_counter()
        await asyncio.gather(*[client() for _ in range(num_clients)])
        wall_s = perf_counter() - began_s
    percentiles = {f"p{rank}_ms": 1e3 * float(np.percentile(latencies_s, rank)) for rank in (50, 99)}
    first = {f"first_byte_p{rank}_ms": 1e3 * float(np.percentile(first_bytes_s, rank)) for rank in (50, 99)}
    return {"requests_per_s": num_requests / wall_s, **percentiles, **first, "errors": errors}


if __name__ == "__main__":
    address, clients, requests, *rest = sys.argv[1:]
    print(json.dumps(asyncio.run(run(address, int(clients), int(requests), rest == ["stream"]))))
