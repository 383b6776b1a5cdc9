"""What ``LiveCluster`` adds to the TTFT, and how many streams it bears, against fast stand-ins for vLLM.

    python -m tests.benchmarks.bench_live [--requests 300] [--streams 500] [--seconds 10]

The stand-ins run in processes of their own, beside the client on the same cores. First one request at a
time, in turns by a bare aiohttp client and by ``LiveCluster``, to the same stand-in, with the same bodies:
the median TTFT of both, from when each was to be sent to when its first token was stamped. Then so many
streams at once of 20 tokens per second each, with scrapes every 0.1 s. Ends with status 1 where
``LiveCluster`` adds more than 1 ms, or a stream fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import numpy as np

from envs.cluster import Request
from envs.live import fleet
from envs.live.prompts import Prompts

MAX_ADDED_S = 1e-3
TOKENS_PER_S = 20.0
NUM_PROMPT_TOKENS = 1000


@contextmanager
def stand_ins(count: int, ttft_s: float, token_interval_s: float) -> Iterator[list[str]]:
    """Their urls."""
    command = [sys.executable, "-m", "tests.envs.live.fake_vllm"]
    command += ["--ttft-s", str(ttft_s), "--token-interval-s", str(token_interval_s)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        yield [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.communicate(timeout=30)


def cpu_s(process_ids: list[int]) -> float:
    """CPU time that processes have used."""
    ticks = 0
    for process_id in process_ids:
        with open(f"/proc/{process_id}/stat") as stat:
            ticks += sum(map(int, stat.read().rpartition(") ")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def bare_ttft_s(session: aiohttp.ClientSession, url: str, prompt: list[int]) -> float:
    """TTFT of one request, as short a client as can be: until the first line of data."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "stream": True, "ignore_eos": True}
    body |= {"temperature": 0.0, "stream_options": {"include_usage": True}, "cache_salt": "a"}
    began = time.monotonic()
    data = json.dumps(body, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/v1/completions", data=data, headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data:"):
                ttft_s = time.monotonic() - began
                break
        await response.read()
    return ttft_s


def added_ttft_s(num_requests: int) -> float:
    """Measure and print; the median of LiveCluster less that of the bare client."""
    prompts, bare_s, live_s = Prompts(16), [], []
    loop = asyncio.new_event_loop()
    with stand_ins(1, 0.01, 0.001) as (url,):
        live = fleet.cluster({"a": url})
        live.reset(np.random.default_rng(0))

        async def opened() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

        session = loop.run_until_complete(opened())
        for number in range(num_requests + 10):
            request = Request(number, live.now_s, NUM_PROMPT_TOKENS, 4)
            began = time.monotonic()
            bare = loop.run_until_complete(bare_ttft_s(session, url, prompts.tokens(request)))
            live.advance_to(live.now_s + time.monotonic() - began)
            live.advance_to(live.now_s + 0.002)
            live.submit(Request(number, live.now_s, NUM_PROMPT_TOKENS, 4), 0)
            (done,) = live.drain().completions
            assert not done.failure, done.failure
            if number >= 10:  # the first open connections and warm caches
                bare_s.append(bare)
                live_s.append(done.ttft_s)
        loop.run_until_complete(session.close())
        live.close()
    loop.close()
    medians = np.median(bare_s), np.median(live_s)
    tails = np.quantile(bare_s, 0.9), np.quantile(live_s, 0.9)
    print(
        f"TTFT of {num_requests} requests in turns: bare median {1e3 * medians[0]:.2f} ms, P90"
        f" {1e3 * tails[0]:.2f} ms; LiveCluster {1e3 * medians[1]:.2f} ms, {1e3 * tails[1]:.2f} ms;"
        f" it adds {1e3 * (medians[1] - medians[0]):.2f} ms (bar: {1e3 * MAX_ADDED_S:g} ms)"
    )
    return float(medians[1] - medians[0])


def all_are_served(num_streams: int, seconds: float) -> bool:
    """Measure and print; whether no stream failed and none fell behind the pace of its server."""
    with stand_ins(2, 0.05, 1 / TOKENS_PER_S) as urls:
        live = fleet.cluster({"a": urls[0], "b": urls[1]})
        live.reset(np.random.default_rng(0))
        cpu_before_s, began = cpu_s([os.getpid()]), time.monotonic()
        for number in range(num_streams):  # over half a second: they end over as long
            live.advance_to(0.5 * number / num_streams)
            live.submit(Request(number, live.now_s, 100, int(TOKENS_PER_S * seconds)), number % 2)
        completions, num_at_once = [], 0
        while live.num_in_flight:
            completions += live.advance_to(live.now_s + 0.1).completions
            num_at_once = max(num_at_once, live.num_in_flight)
        took_s = time.monotonic() - began
        busy_s = cpu_s([os.getpid()]) - cpu_before_s
        counters = live.counters()
        live.close()
    served = [done for done in completions if not done.failure]
    ttft_s = np.array([done.ttft_s for done in served])
    late_s = np.array([done.e2e_s - done.ttft_s for done in served]) - (seconds - 1 / TOKENS_PER_S)
    print(
        f"{num_streams} streams of {TOKENS_PER_S:g} tokens/s for {seconds:g} s ({num_at_once} at once,"
        f" {counters['num_scrapes']} scrapes): {len(served)} served in {took_s:.1f} s,"
        f" {sum(done.num_output_tokens for done in served) / took_s:,.0f} tokens/s;"
        f" client's CPU {100 * busy_s / took_s:.0f} % of a core;"
        f" TTFT median {1e3 * np.median(ttft_s):.0f} ms, P99 {1e3 * np.quantile(ttft_s, 0.99):.0f} ms"
        " (server: 50);"
        f" ended late by median {1e3 * np.median(late_s):.0f} ms, at most {1e3 * late_s.max():.0f} ms;"
        f" longest gap {1e3 * counters['max_inter_token_s']:.0f} ms (server: 50);"
        f" lag when sending at most {1e3 * counters['max_lag_s']:.1f} ms"
    )
    return len(served) == num_streams == num_at_once and float(np.median(late_s)) < 1.0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    kept = [
        added_ttft_s(options.requests) <= MAX_ADDED_S,
        all_are_served(options.streams, options.seconds),
    ]
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
