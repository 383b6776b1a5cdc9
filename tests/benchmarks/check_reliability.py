"""What clients meet with while instances are killed, hung and started again: 20,000 requests at 64 clients.

    make reliability
    python -m tests.benchmarks.check_reliability [--requests 20000] [--clients 64] [--vllm 0]

A router of its own process before four backends of their own processes, which stream a few events and answer
at once, or are, as many as ``--vllm`` says, real vLLM servers on a modelled device. Meanwhile one backend
after the other is killed (SIGKILL) and started again, or stopped (SIGSTOP) and let go on. Then the router is
told to end (SIGTERM) in the middle of a last load. Every request must get a whole answer, or an error with a
reason; those that had not sent a byte are tried elsewhere; nothing may be answered twice, and at the end the
router holds no request and no more connections than it began with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

import aiohttp

from envs.live.server import Servers
from envs.live.server_options import ServerOptions
from tests.benchmarks.router import ours

FIRST_PORT, ROUTER_PORT = 18500, 18510
NUM_BACKENDS = 4

PROFILE, TIME_SCALE = "h100_llama-3.1-8b", 1.0
"""Of real servers."""
EVERY_S = 1.5
"""Between two disturbances."""
LIMIT_S = 1500.0
SETTINGS = (
    "router.max_instances=8",
    "router.log_requests=none",
    "router.proxy.first_byte_timeout_s=1.0",
    "router.proxy.token_timeout_s=1.0",
    "router.limits.probe_interval_s=0.2",
    "router.limits.max_probe_interval_s=0.5",
    "router.drain_s=20",
)


class Backend(Protocol):
    """A server that can be killed and hung."""

    url: str

    def start(self) -> None:
        """Start it, or start it again."""

    def kill(self) -> None:
        """Kill it."""

    def suspend(self) -> None:
        """Halt it."""

    def resume(self) -> None:
        """Let it go on."""


class Fake:
    """One that answers at once."""

    def __init__(self, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        """See ``Backend``."""
        command = [sys.executable, "-m", "tests.benchmarks.router.backend", str(self.port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **pipes)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def kill(self) -> None:
        """See ``Backend``."""
        self.process.kill()
        self.process.communicate()

    def suspend(self) -> None:
        """See ``Backend``."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """See ``Backend``."""
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def backends(num_vllm: int) -> Iterator[list[Backend]]:
    """All of them, ended at the end."""
    with ExitStack() as stack:
        held: list[Backend] = []
        if num_vllm:
            options = [ServerOptions(profile=PROFILE, time_scale=TIME_SCALE, max_model_len=8192)] * num_vllm
            held += stack.enter_context(Servers(options, "runs/reliability"))
        for number in range(NUM_BACKENDS - num_vllm):
            fake = Fake(FIRST_PORT + number)
            stack.callback(fake.kill)
            held.append(fake)
        yield held


def router(held: Sequence[Backend]) -> AbstractContextManager[subprocess.Popen[str]]:
    """The router before them."""
    names = ", ".join(f'b{number}: "{backend.url}"' for number, backend in enumerate(held))
    return ours.router(ROUTER_PORT, f"{{{names}}}", SETTINGS)


async def disturb(held: list[Backend], over: asyncio.Event) -> int:
    """Kill or hang one after the other until it is over; return how often."""
    number = 0
    while not over.is_set():
        await asyncio.sleep(EVERY_S)
        backend = held[number % len(held)]
        if number % 2:
            backend.suspend()
            await asyncio.sleep(EVERY_S)
            backend.resume()
        else:
            await asyncio.to_thread(backend.kill)
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(backend.start)
        number += 1
    return number


async def ask(session: aiohttp.ClientSession, number: int) -> str:
    """One request; what came of it in a few words."""
    is_stream = number % 2 == 0
    prompt = f"request {number} " + "word " * 100
    body = {"model": "tiny", "prompt": prompt, "stream": is_stream, "max_tokens": 16, "ignore_eos": True}
    url = f"http://127.0.0.1:{ROUTER_PORT}/v1/completions"
    content = b""
    try:
        async with session.post(url, json=body) as response:
            async for part in response.content.iter_any():
                content += part
            if response.status != 200:
                error = json.loads(content)["error"]
                return (
                    f"error {response.status} with a reason" if error["message"] else "error without reason"
                )
    except aiohttp.ClientPayloadError:
        return "broken off with a reason" if b'"error"' in content else "broken off without reason"
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return f"no answer ({type(error).__name__})"
    whole = content.count(b"[DONE]") if is_stream else content.count(b'"usage"')
    return {0: "cut short", 1: "answered"}.get(whole, "answered twice")


async def load(num_requests: int, num_clients: int) -> Counter[str]:
    """Put a load on the router."""
    todo, outcomes = iter(range(num_requests)), Counter[str]()
    timeout = aiohttp.ClientTimeout(total=60.0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client() -> None:
            for number in todo:
                outcomes[await ask(session, number)] += 1

        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*[client() for _ in range(num_clients)])
    return outcomes


async def disturbed_load(held: list[Backend], options: argparse.Namespace) -> tuple[Counter[str], int]:
    """The load, while backends are disturbed."""
    over = asyncio.Event()
    disturbing = asyncio.create_task(disturb(held, over))
    outcomes = await load(options.requests, options.clients)
    over.set()
    return outcomes, await disturbing


async def load_into_the_end(process: subprocess.Popen[str], num_clients: int) -> Counter[str]:
    """A load in whose middle the router is told to end."""
    outcomes = Counter[str]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asked = [asyncio.create_task(ask(session, number)) for number in range(num_clients)]
        await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        for task in asked:
            outcomes[await task] += 1
    return outcomes


def num_sockets(process_id: int) -> int:
    """Open sockets of a process."""
    folder = f"/proc/{process_id}/fd"
    links = (os.readlink(f"{folder}/{entry}") for entry in os.listdir(folder))
    return sum(link.startswith("socket:") for link in links)


def metric(name: str) -> float:
    """A metric of the router, summed over its labels."""
    return sum(each.value for each in ours.metrics(ROUTER_PORT) if each.name == name)


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.check_reliability", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--vllm", type=int, default=0, help=f"of {NUM_BACKENDS} backends, real servers")
    options = parser.parse_args()
    with backends(options.vllm) as held, router(held) as process:
        time.sleep(1.0)
        asyncio.run(load(options.clients * 4, options.clients))
        time.sleep(3.0)  # idle connections are closed
        sockets = num_sockets(process.pid)
        began_s = time.monotonic()
        outcomes, num_disturbed = asyncio.run(disturbed_load(held, options))
        wall_s = time.monotonic() - began_s
        time.sleep(4.0)
        in_flight, retries = metric("routegym_in_flight"), metric("routegym_retries_total")
        left = num_sockets(process.pid) - sockets
        last = asyncio.run(load_into_the_end(process, options.clients))
        status = process.wait(timeout=60)
    about = f"{options.requests} requests at {options.clients} clients in {wall_s:.0f} s"
    print(f"{about}, {num_disturbed} disturbances:")
    for what, number in outcomes.most_common():
        print(f"  {number:6} {what}")
    print(f"tried elsewhere: {retries:.0f}; left: {in_flight:.0f} in flight, {left} sockets more than before")
    print(f"told to end under {options.clients} requests: {dict(last)}, exit status {status}")
    good = ("answered", "with a reason")
    bad = {what: number for what, number in outcomes.items() if not what.endswith(good)}
    lost = options.requests - sum(outcomes.values())
    ended_well = last.keys() <= {"answered", "no answer (ClientConnectorError)"} and status == 0
    holds = not bad and not lost and in_flight == 0 and left <= 2 and ended_well
    print("all holds" if holds else f"DOES NOT HOLD: {bad or ''} {lost or ''}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
