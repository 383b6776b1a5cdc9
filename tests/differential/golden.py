"""Golden rows: what vLLM did in scenarios that are kept, for machines without vLLM.

    ROUTEGYM_VLLM=.venv-vllm/bin/python python -m tests.differential.golden

draws the scenarios anew, asks vLLM and writes golden/; the same version of vLLM gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from envs.live.vllm_python import vllm_python

from .comparison import difference, report
from .emulation import emulate
from .oracle import Oracle
from .scenario import Scenario, random_scenario

FOLDER = Path(__file__).parent / "golden"
MODES = {  # name -> policy, async_scheduling
    "fcfs_sync": ("fcfs", False),
    "fcfs_async": ("fcfs", True),
    "priority_sync": ("priority", False),
    "priority_async": ("priority", True),
}
NUM_SCENARIOS = 80
SEED = 32


def golden(mode: str) -> Iterator[tuple[Scenario, dict[str, Any]]]:
    """Scenarios of a mode, with vLLM's rows."""
    with gzip.open(FOLDER / f"{mode}.jsonl.gz", "rt", encoding="utf-8") as file:
        next(file)  # says where the rest is from
        for line in file:
            entry = json.loads(line)
            yield entry["scenario"], entry["vllm"]


def write(mode: str, oracle: Oracle) -> None:
    """Draw a mode's scenarios and ask vLLM."""
    policy, async_scheduling = MODES[mode]
    lines: list[dict[str, Any]] = [
        {"vllm": oracle.vllm_version, "made by": "python -m tests.differential.golden"}
    ]
    for number in range(NUM_SCENARIOS):
        rng = np.random.default_rng([SEED, number])
        scenario, ours = emulate(random_scenario(rng, policy, async_scheduling))
        vllms = oracle.ask(scenario)
        message = difference(ours, vllms)
        if message:
            raise SystemExit(
                f"the emulator differs from vLLM {oracle.vllm_version}:\n{report(scenario, message)}"
            )
        lines.append({"scenario": scenario, "vllm": vllms})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (FOLDER / f"{mode}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> None:
    """Write all."""
    python = vllm_python()
    if python is None:
        raise SystemExit("no vLLM here: `make vllm` installs it, ROUTEGYM_VLLM names one that is installed")
    oracle = Oracle(python)
    for mode in MODES:
        write(mode, oracle)
        path = FOLDER / f"{mode}.jsonl.gz"
        num_steps = sum(rows["num_steps"] for _, rows in golden(mode))
        print(f"{path}: {path.stat().st_size:,} bytes, {num_steps:,} steps")
    oracle.close()


if __name__ == "__main__":
    main()
