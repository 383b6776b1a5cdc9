"""Our router as a process of its own, for the checks that put a load on it."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


@contextmanager
def router(
    port: int, endpoints: str, settings: Sequence[str], log: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """One that is ready; told to end at the end.

    Args:
        port: Where it listens.
        endpoints: A file, or the mapping itself, as ``agents.serve`` takes it.
        settings: Further ones.
        log: What it says is added to it; None: it goes to standard error.

    Raises:
        RuntimeError: It does not start.
    """
    command = [sys.executable, "-m", "agents.serve", f"router.port={port}", f"endpoints={endpoints}"]
    errors = None if log is None else log.open("a")
    try:
        process = subprocess.Popen([*command, *settings], stdout=subprocess.PIPE, stderr=errors, text=True)
    finally:
        if errors is not None:
            errors.close()
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("routing"):
            raise RuntimeError(f"the router does not start: {line}" + (f"; see {log}" if log else ""))
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def metrics(port: int) -> list[Sample]:
    """What its ``/metrics`` says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
