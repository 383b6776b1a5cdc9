"""Is the router's memory bounded? A million requests, no two alike, each of another session and tenant.

    make memory
    python -m tests.benchmarks.check_memory [--requests 1000000] [--clients 64] [-- SETTING=VALUE ...]

A router of its own process, with a PPO policy's bundle, before instances that answer at once. Prompts of 2 kB
share nothing, so that every one fills the prefix index; sessions and tenants are all new; whatever is kept of
a request shows. Printed is the router's resident memory as it goes. Ends with status 1 where, from a tenth of
the way on, it has grown by more than the bound, or where a request was not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tests.benchmarks.bench_router import make_bundle, resident_mib
from tests.benchmarks.router.backend import ANSWER, METRICS

FIRST_PORT, ROUTER_PORT = 18700, 18710
NUM_INSTANCES = 3
NUM_SAMPLES = 20
MAX_GROWTH = 0.05
"""Of the resident memory, from a tenth of the requests to the last."""
MODELS = '{"object": "list", "data": [{"id": "tiny", "max_model_len": 131072}]}'


def _whole(content: str, kind: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return (head + content).encode()


ANSWERED = _whole(ANSWER, "application/json")
TOLD = {
    b"/metrics": _whole(METRICS, "text/plain"),
    b"/v1/models": _whole(MODELS, "application/json"),
}
HEALTHY = _whole("{}", "application/json")


class Messages(asyncio.Protocol):
    """Cuts what comes into HTTP messages with a Content-Length or no body: as little as a load needs."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Cut."""
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._held) < end + 4 + length:
                return
            self._held = self._held[end + 4 + length :]
            self.take(head)

    def take(self, head: bytes) -> None:
        """Take a message, of which the body does not matter."""
        raise NotImplementedError


class Instance(Messages):
    """Answers everything at once."""

    def take(self, head: bytes) -> None:
        """Answer."""
        method, path, _ = head.split(b" ", 2)
        self.transport.write(ANSWERED if method == b"POST" else TOLD.get(path, HEALTHY))


class Client(Messages):
    """Sends one request after the other."""

    def __init__(self, requests: Iterator[bytes], ended: asyncio.Future[None], failed: list[bytes]) -> None:
        super().__init__()
        self._requests, self._ended, self._failed = requests, ended, failed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        self._send()

    def take(self, head: bytes) -> None:
        """Note an answer, and go on."""
        if not head.startswith(b"HTTP/1.1 200 "):
            self._failed.append(head)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if not self._ended.done():
            self._failed.append(b"connection lost")
            self._ended.set_result(None)

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self.transport.write(request)
        elif not self._ended.done():
            self._ended.set_result(None)
            self.transport.close()


def requests(num: int) -> Iterator[bytes]:
    """Of which no two share a prompt, a session or a tenant."""
    for number in range(num):
        prompt = os.urandom(1000).hex()
        content = b'{"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "%s"}]}'
        body = content % prompt.encode()
        yield (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"X-Session-Id: session-%d\r\nX-Tenant-Id: tenant-%d\r\nContent-Length: %d\r\n\r\n%s"
        ) % (number, number, len(body), body)


async def instances() -> None:
    """Listen, all of them."""
    loop = asyncio.get_running_loop()
    for number in range(NUM_INSTANCES):
        await loop.create_server(Instance, "127.0.0.1", FIRST_PORT + number)


async def load(process_id: int, num: int, num_clients: int) -> tuple[list[float], list[bytes]]:
    """Put the load on the router; its memory at the begin and as it went, and what failed."""
    loop = asyncio.get_running_loop()
    samples, failed = [resident_mib(process_id)], list[bytes]()
    with tqdm(total=num, unit="request", disable=None) as bar:
        for _ in range(NUM_SAMPLES):
            todo = requests(num // NUM_SAMPLES)
            ends = [loop.create_future() for _ in range(num_clients)]
            for ended in ends:
                make = partial(Client, todo, ended, failed)
                await loop.create_connection(make, "127.0.0.1", ROUTER_PORT)
            await asyncio.gather(*ends)
            samples.append(resident_mib(process_id))
            bar.update(num // NUM_SAMPLES)
    return samples, failed


async def measured(command: list[str], options: argparse.Namespace) -> tuple[list[float], list[bytes]]:
    """Start the router before the instances, put the load on it, and end it."""
    await instances()
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line.startswith(b"routing"):
            raise RuntimeError(f"the router does not start: {line!r}")
        await asyncio.sleep(1.0)  # the first scrapes
        return await load(process.pid, options.requests, options.clients)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.check_memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("settings", nargs="*", help="further ones of the router, such as record=FOLDER")
    options = parser.parse_args()
    names = ", ".join(f'b{n}: "http://127.0.0.1:{FIRST_PORT + n}"' for n in range(NUM_INSTANCES))
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder) / "bundle")
        command = [sys.executable, "-m", "agents.serve", f"endpoints={{{names}}}"]
        command += [f"router.port={ROUTER_PORT}", "router.max_instances=8", f"policy={folder}/bundle"]
        command += ["router.guard.check_range=false", *options.settings]
        began_s = time.monotonic()
        samples, failed = asyncio.run(measured(command, options))
        wall_s = time.monotonic() - began_s
    print(
        f"{options.requests:,} requests at {options.clients} clients in {wall_s:.0f} s; resident MiB, evenly:"
    )
    print("  " + " ".join(f"{sample:.0f}" for sample in samples))
    growth = samples[-1] / samples[NUM_SAMPLES // 10] - 1
    print(f"from a tenth of the way on: {100 * growth:+.1f} % (at most {100 * MAX_GROWTH:.0f} %)")
    if failed:
        print(f"{len(failed)} not answered, the first: {failed[0]!r}")
    return 1 if failed or growth > MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
