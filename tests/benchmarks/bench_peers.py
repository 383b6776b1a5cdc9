"""Requests per second of RouteGym and of other simulators, on one stream, in one run.

    make bench-peers
    python -m tests.benchmarks.bench_peers [--repeats 3] [--frac 1.0]

Each simulator runs in a process and, where it is not ours, in an environment of its own
(``.venv-peers/<name>``, made on first use). The runs take turns, so that all see the same neighbours on the
machine. Every process says how long its simulation took, without starting up, reading its stream or
compiling; ``whole process`` is from its start to its end. A peer that cannot be installed or run is a row
that says why. The exit status is 0 if every bar was measured and met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.files import write_json
from envs.emulator.profile import load
from tests.benchmarks.peer_stream import NUM_INSTANCES, make_trace, write_mooncake, write_npz, write_vidur
from tests.benchmarks.peer_table import Row, bars, markdown, ratios

PROFILE = "a100_llama-3.1-8b"
ENVIRONMENTS = Path(".venv-peers")
RESULTS = Path("runs/bench_peers/results.json")
INSTALL_LIMIT_S = 600
RUN_LIMIT_S = 120
OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "DYN_LOG": "error", "OMP_NUM_THREADS": "1"}
"""Of every process: nothing leaves the machine, nothing is logged, one thread."""


@dataclass(frozen=True)
class Simulator:
    """One row: what runs, and on how much of the stream."""

    name: str
    title: str
    models: str
    module: str
    """Of ``tests.benchmarks.peers``."""
    num_requests: int
    requirement: str = ""
    """What pip installs into its environment; empty: it runs in ours."""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> Path:
        """The folder of its environment; those with one module share it."""
        return ENVIRONMENTS / self.module


OUR_ENGINE = (
    "vLLM V1's scheduler step by step (chunked prefill, preemption; asynchronous scheduling: a request"
    " joins the step after next, so TTFT is longer by some of a step), paged KV cache"
    " with exact eviction and prefix hashes"
)
MOCKER = (
    "a vLLM-like scheduler on paged KV with prefix caching; step times: its own polynomials, slowed to A100's"
)
VIDUR = "vidur==0.0.26"
DYNAMO = "ai-dynamo-runtime==1.6.1"
FLEET_SIM = "vllm-sr-sim==0.1.0.dev20260713123629"


def dynamo(name: str, router_mode: str, block_size: int, models: str) -> Simulator:
    """Dynamo's mocker under one router, with KV blocks of one size."""
    options = {"router_mode": router_mode, "block_size": block_size}
    title = f"Dynamo mocker 1.6.1, {router_mode}, blocks of {block_size}"
    return Simulator(name, title, models, "dynamo", 20_000, DYNAMO, options)


SIMULATORS = (
    Simulator("bare", "RouteGym, bare loop", OUR_ENGINE, "routegym", 100_000, options={"mode": "replay"}),
    Simulator(
        "bare_64",
        "RouteGym, bare loop, blocks of 64",
        "the same with the KV blocks that Dynamo has by default",
        "routegym",
        100_000,
        options={"mode": "replay", "block_size": 64},
    ),
    Simulator(
        "bare_unhashed",
        "RouteGym, bare loop, no hashes",
        "the same, told as Vidur is that no prefix is shared: blocks are cached and evicted all the same",
        "routegym",
        100_000,
        options={"mode": "replay", "hashed": False},
    ),
    Simulator(
        "env",
        "RouteGym, env.step",
        "the same behind Gymnasium: an observation, a reward and feedback for each request",
        "routegym",
        20_000,
        options={"mode": "env"},
    ),
    Simulator(
        "vidur",
        "Vidur 0.0.26, round robin",
        "Sarathi's scheduler on paged KV without prefix caching; regression on kernel profiles, here made of"
        " RouteGym's A100 law; it keeps metrics and a trace of every step, as it comes",
        "vidur",
        2_000,
        VIDUR,
        {"quiet": False},
    ),
    Simulator(
        "vidur_quiet",
        "Vidur 0.0.26, metrics and traces off",
        "the same, keeping nothing",
        "vidur",
        2_000,
        VIDUR,
        {"quiet": True},
    ),
    dynamo("dynamo_round_robin", "round_robin", 16, MOCKER),
    dynamo(
        "dynamo_kv_router", "kv_router", 16, "the same behind Dynamo's KV router, with its index of prefixes"
    ),
    dynamo("dynamo_round_robin_64", "round_robin", 64, "the same with its default blocks, a quarter as many"),
    dynamo("dynamo_kv_router_64", "kv_router", 64, "the same with its default blocks, a quarter as many"),
    Simulator(
        "fleet_sim",
        "vllm-sr-sim, round robin",
        "a queue with slots: one service time for a whole request, fixed when it starts; no steps and"
        " no KV cache; not the same work",
        "fleet_sim",
        50_000,
        FLEET_SIM,
    ),
)


def install(simulator: Simulator) -> str:
    """Make its environment where it is not yet; return why that failed, or nothing."""
    marker = simulator.environment / ".installed"
    if not simulator.requirement or (marker.exists() and marker.read_text() == simulator.requirement):
        return ""
    python = simulator.environment / "bin" / "python"
    steps = (
        [sys.executable, "-m", "venv", str(simulator.environment)],
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            simulator.requirement,
        ],
    )
    for step in steps:
        failure, _ = run(step, INSTALL_LIMIT_S)
        if failure:
            return f"install: {failure}"
    marker.write_text(simulator.requirement)
    return ""


def run(command: Sequence[str], limit_s: float) -> tuple[str, str]:
    """Run a process to its end; return the last line of its error, or nothing, and its output."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, **OFFLINE},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), ""
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
        return lines[-1], ""
    return "", done.stdout


def measure(simulator: Simulator, job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run it once; return why that failed, or nothing, and its outcome."""
    python = simulator.environment / "bin" / "python" if simulator.requirement else Path(sys.executable)
    started_s = time.perf_counter()
    failure, output = run(
        [str(python), "-m", f"tests.benchmarks.peers.{simulator.module}", json.dumps(job)], RUN_LIMIT_S
    )
    whole_s = time.perf_counter() - started_s
    if failure:
        return failure, {}
    outcome: dict[str, Any] = json.loads(output.splitlines()[-1])
    if outcome["num_requests"] != job["num_requests"]:
        return f"completed {outcome['num_requests']} of {job['num_requests']} requests", {}
    return "", outcome | {"whole_s": whole_s}


def jobs(directory: Path, frac: float) -> dict[str, dict[str, Any]]:
    """Write the stream in every form; return what each simulator is given."""
    profile = load(PROFILE)
    trace = make_trace(max(simulator.num_requests for simulator in SIMULATORS))
    write_npz(trace, directory / "stream.npz")
    shared = {
        "num_instances": NUM_INSTANCES,
        "profile": PROFILE,
        "law": profile.law._asdict(),
        "num_blocks": profile.num_blocks,
        "max_num_seqs": profile.max_num_seqs,
        "max_num_batched_tokens": profile.max_num_batched_tokens,
        "block_size": 16,
        "npz": str(directory / "stream.npz"),
        "cache": str(directory / "vidur"),
        "speedup_ratio": 0.62,  # of the mocker: brings its mean TPOT to that of the A100 law
    }
    given = {}
    for simulator in SIMULATORS:
        num_requests = max(int(frac * simulator.num_requests), 200)
        mooncake, csv = directory / f"{num_requests}.jsonl", directory / f"{num_requests}.csv"
        if simulator.requirement and not mooncake.exists():
            write_mooncake(trace.head(num_requests), mooncake)
            write_vidur(trace.head(num_requests), csv)
        files = {"num_requests": num_requests, "mooncake": str(mooncake), "csv": str(csv)}
        given[simulator.name] = shared | files | simulator.options
    return given


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frac", type=float, default=1.0, help="of each simulator's requests")
    options = parser.parse_args()
    failures = {simulator.name: install(simulator) for simulator in SIMULATORS}
    outcomes: dict[str, list[dict[str, Any]]] = {simulator.name: [] for simulator in SIMULATORS}
    with tempfile.TemporaryDirectory() as directory:
        given = jobs(Path(directory), options.frac)
        for _ in range(options.repeats):
            for simulator in SIMULATORS:
                if not failures[simulator.name]:
                    failure, outcome = measure(simulator, given[simulator.name])
                    failures[simulator.name] = failure
                    outcomes[simulator.name] += [outcome] if outcome else []
    rows = [Row(s.name, s.title, s.models, outcomes[s.name], failures[s.name]) for s in SIMULATORS]
    checked = bars(rows)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    results = {"machine": machine, "outcomes": outcomes, "failures": failures, "ratios": ratios(rows)}
    results["bars"] = {bar.text: [bar.value, bar.at_least] for bar in checked}
    write_json(RESULTS, results)
    print(f"{machine}; {options.repeats} runs each, taking turns\n\n{markdown(rows)}\n")
    print("Requests/s of our bare loop over theirs, each given the same (best over best):")
    print("\n".join(f"  {name}: {ratio:,.1f}" for name, ratio in ratios(rows).items()))
    print("\n".join(map(str, checked)))
    sys.exit(0 if all(bar.met for bar in checked) else 1)


if __name__ == "__main__":
    main()
