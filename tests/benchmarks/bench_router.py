"""What a router costs: CPU per request and added latency, ours and others', in one run.

    make bench-router
    python -m tests.benchmarks.bench_router [--repeats 3] [--requests 1500]

Three backends that answer at once, a client in a closed loop, 2 kB prompts, all on this machine: latencies
hold the contention between client, router and backends, so that CPU time per request is the figure to carry
elsewhere. Each load is put on the router and on the backends directly, in turns. Routers that are not ours
run in environments of their own (``.venv-peers/<name>``, made on first use); one that cannot be installed is
a row that says so. Ends with status 1 where a bar of ours is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from agents.export import writing
from agents.files import write, write_json
from agents.heuristics.least_in_flight import LeastInFlight
from agents.markdown import table
from agents.rl.network import ScoreNetwork
from agents.rl.sb3_policy import Sb3Policy
from envs.observation import ENCODED_NAMES
from tests.benchmarks.router.routers import ROUTERS, Measured

RESULTS, TABLE = Path("runs/bench_router/results.json"), Path("runs/bench_router/table.md")
NUM_BACKENDS = 3
FIRST_PORT = 18400
CLIENTS = (1, 16, 64)
WARM_UP = 200
START_LIMIT_S, LOAD_LIMIT_S, INSTALL_LIMIT_S = 120, 300, 900
MAX_CPU_MS, MAX_ADDED_P50_MS, MAX_ADDED_FIRST_BYTE_MS = 1.0, 2.0, 1.0
"""Bars of ours: CPU per request at 16 and 64 clients; added median at one, of a stream's first byte too."""


class CannotRunError(Exception):
    """A router that cannot be measured here; the message says why."""


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended at the end by its id."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def family(process_id: int) -> list[int]:
    """A process and all that it has started."""
    found, todo = [], [process_id]
    while todo:
        process_id = todo.pop()
        try:
            for thread in os.listdir(f"/proc/{process_id}/task"):
                with open(f"/proc/{process_id}/task/{thread}/children") as children:
                    todo += map(int, children.read().split())
        except FileNotFoundError:
            continue
        found.append(process_id)
    return found


def cpu_s(process_id: int) -> float:
    """CPU time of a process and its children, so far."""
    total = 0
    for member in family(process_id):
        with open(f"/proc/{member}/stat") as stat:
            fields = stat.read().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_mib(process_id: int) -> float:
    """Resident memory of a process and its children."""
    total = 0.0
    for member in family(process_id):
        with open(f"/proc/{member}/status") as status:
            total += int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024
    return total


def load(url: str, num_clients: int, num_requests: int, stream: bool = False) -> dict[str, Any]:
    """Put a load on a server; what it met with."""
    command = [sys.executable, "-m", "tests.benchmarks.router.load", url, str(num_clients), str(num_requests)]
    said = subprocess.run(
        command + ["stream"] * stream, capture_output=True, text=True, timeout=LOAD_LIMIT_S, check=True
    )
    result: dict[str, Any] = json.loads(said.stdout)
    return result


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a chat request is answered."""
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        request = urllib.request.Request(
            url + "/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise CannotRunError(f"did not answer: {log.read_text(errors='replace')[-300:].strip()}")


def install(router: Measured) -> None:
    """Make the environment of a router that is not ours."""
    if not router.requirement or (router.environment / "bin" / "python").exists():
        return
    print(f"installing {router.requirement} ...", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(router.environment)], check=True)
        pip = [str(router.environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, router.requirement], check=True, timeout=INSTALL_LIMIT_S, capture_output=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        subprocess.run(["rm", "-rf", str(router.environment)], check=False)
        raise CannotRunError(f"{router.requirement} cannot be installed here ({error})") from error


def measure(
    router: Measured, port: int, backends: Sequence[str], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """All figures of one router."""
    install(router)
    log = folder / f"{port}.log"
    url = f"http://127.0.0.1:{port}"
    runs: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        runs.setdefault(name, []).append(value)

    began_s = time.monotonic()
    with running(router.arguments(port, backends, folder / "bundle"), log) as process:
        wait_for(url, process, log)
        note("start_s", time.monotonic() - began_s)
        load(url, 16, WARM_UP)
        errors = 0
        for _ in range(options.repeats):
            for num_clients in CLIENTS:
                num = options.requests if num_clients > 1 else options.requests // 3
                direct = load(backends[0], num_clients, num)
                before_s = cpu_s(process.pid)
                routed = load(url, num_clients, num)
                note(f"cpu_ms_{num_clients}", 1e3 * (cpu_s(process.pid) - before_s) / num)
                note(f"requests_per_s_{num_clients}", routed["requests_per_s"])
                note(f"added_p50_ms_{num_clients}", routed["p50_ms"] - direct["p50_ms"])
                note(f"added_p99_ms_{num_clients}", routed["p99_ms"] - direct["p99_ms"])
                errors += sum(routed["errors"].values())
            direct = load(backends[0], 1, options.requests // 3, stream=True)
            routed = load(url, 1, options.requests // 3, stream=True)
            note("added_first_byte_p50_ms", routed["first_byte_p50_ms"] - direct["first_byte_p50_ms"])
            errors += sum(routed["errors"].values())
        note("rss_mib", resident_mib(process.pid))
    medians = {name: statistics.median(each) for name, each in runs.items()}
    return {
        "runs": runs,
        "median": medians,
        "errors": errors,
    }


def make_bundle(folder: Path) -> None:
    """A PPO network of the usual size, untrained: what it decides does not matter here."""
    torch.manual_seed(0)
    network = ScoreNetwork(len(ENCODED_NAMES), (64, 64), (64,))
    export = writing.Export("ppo", Sb3Policy(network), LeastInFlight(), "least_in_flight", max_instances=64)
    writing.write(folder, export, lambda part: "Untrained, for a benchmark.\n")


def as_table(results: dict[str, Any]) -> str:
    """In Markdown."""
    columns = {
        "CPU ms/request at 16": "cpu_ms_16",
        "at 64": "cpu_ms_64",
        "added p50 at 1, ms": "added_p50_ms_1",
        "first byte of a stream, ms": "added_first_byte_p50_ms",
        "added p50 at 16": "added_p50_ms_16",
        "at 64 ": "added_p50_ms_64",
        "requests/s at 64": "requests_per_s_64",
        "RSS MiB": "rss_mib",
        "start s": "start_s",
    }
    lines = [["router", *columns, "errors"]]
    for title, result in results.items():
        if "why" in result:
            lines.append([title, result["why"][:60], *[""] * len(columns)])
            continue
        cells = []
        for name in columns.values():
            values = result["runs"][name]
            middle, digits = result["median"][name], 0 if name in ("requests_per_s_64", "rss_mib") else 2
            spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{middle:.{digits}f}{spread}")
        lines.append([title, *cells, str(result["errors"])])
    return table(lines)


def missed(results: dict[str, Any]) -> list[str]:
    """Bars of ours that were not met."""
    bars = {
        "cpu_ms_16": MAX_CPU_MS,
        "cpu_ms_64": MAX_CPU_MS,
        "added_p50_ms_1": MAX_ADDED_P50_MS,
        "added_first_byte_p50_ms": MAX_ADDED_FIRST_BYTE_MS,
    }
    return [
        f"{title}: {name} is {result['median'][name]:.2f}, it must be at most {most}"
        for title, result in results.items()
        if title.startswith("RouteGym") and "median" in result
        for name, most in bars.items()
        if result["median"][name] > most
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.bench_router", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1500, help="at 16 and 64 clients; a third at one")
    parser.add_argument("--only", default="", help="routers whose title holds this")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_bundle(folder / "bundle")
        ports = [FIRST_PORT + number for number in range(NUM_BACKENDS)]
        command = [sys.executable, "-m", "tests.benchmarks.router.backend"]
        with (
            running([*command, str(ports[0])], folder / "b0.log"),
            running([*command, str(ports[1])], folder / "b1.log"),
            running([*command, str(ports[2])], folder / "b2.log") as last,
        ):
            backends = [f"http://127.0.0.1:{port}" for port in ports]
            for url in backends:
                wait_for(url, last, folder / "b2.log")
            for number, router in enumerate(each for each in ROUTERS if options.only in each.title):
                print(f"{router.title} ...", flush=True)
                try:
                    port = FIRST_PORT + 10 + number
                    results[router.title] = measure(router, port, backends, folder, options)
                except CannotRunError as error:
                    results[router.title] = {"why": str(error)}
    text = as_table(results)
    about = {"cpu": platform.processor(), "cores": os.cpu_count(), "load_average": os.getloadavg()}
    write_json(RESULTS, {"about": about, "results": results})
    write(TABLE, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
    print(f"\n{text}\n\nMedians of {options.repeats} runs (least to most). Load {os.getloadavg()[0]:.1f}.")
    print(f"results: {RESULTS}")
    for reason in (misses := missed(results)):
        print(f"NOT MET: {reason}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
