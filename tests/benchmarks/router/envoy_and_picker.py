"""Envoy and our endpoint picker, as children of one process, so that they are measured together.

python -m tests.benchmarks.router.envoy_and_picker PORT BUNDLE BACKEND...
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests.agents.picker.envoy_before import FULL_DUPLEX, config, original_dst, running


def run(port: int, bundle: str, backends: Sequence[str]) -> None:
    """Run both until told to end."""
    endpoints = ", ".join(f'b{number}: "{url}"' for number, url in enumerate(backends))
    settings = [f"picker.port={port + 1000}", f"picker.admin_port={port + 2000}", "picker.max_instances=16"]
    settings += ["picker.guard.max_decision_s=1.0", "picker.guard.check_range=false"]
    command = [sys.executable, "-m", "agents.picker", f"policy={bundle}", f"endpoints={{{endpoints}}}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*command, *settings], stdout=subprocess.PIPE) as picker,
    ):
        try:
            assert picker.stdout is not None
            if not picker.stdout.readline():
                raise SystemExit("the picker does not start")
            text = json.dumps(config(port, port + 1000, original_dst(), FULL_DUPLEX))
            with running(folder, text, "json", port):
                signal.pause()
        finally:
            picker.terminate()


def _end(number: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    run(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
