"""Asks real routers what they choose, and holds our rules against it.

    make golden
    python -m tests.agents.heuristics.golden.run [--only rust] [--keep]

Each router runs in an environment of its own (``.venv-golden-<name>``), made on first use, of pinned
versions; none of it enters ours. What cannot be installed here is skipped with the reason. ``--keep`` keeps
what was recorded as that which the unit tests compare with (``recorded/``). The exit status is 0 if our rules
would have chosen likewise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.agents.heuristics.golden.replay import MAY_DIFFER, RULES
from tests.agents.plugs.integration import run as integration

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"
HOSTS = (
    integration.Host("rust", "rust_routers", purpose="golden"),
    integration.Host("dynamo", "dynamo_service", purpose="golden"),
)
LIMIT_S = 600


def record(host: integration.Host, folder: Path) -> None:
    """Run a host's script. Raises ``SkippedError`` where it cannot be installed."""
    python = integration.install(host)
    paths = os.pathsep.join((str(HERE), str(integration.SCRIPTS)))
    command = [str(python), str(HERE / f"{host.script}.py"), str(folder)]
    settings = {**os.environ, **integration.SETTINGS, "PYTHONPATH": paths}
    subprocess.run(command, env=settings, check=True, timeout=LIMIT_S)


def main() -> int:
    """Record and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=[host.name for host in HOSTS], action="append")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    num_wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for host in HOSTS:
            if given.only and host.name not in given.only:
                continue
            try:
                record(host, folder)
            except integration.SkippedError as reason:
                print(f"{host.name}: skipped: {reason}", flush=True)
        for path in sorted(folder.glob("*.json")):
            choices = json.loads(path.read_text(encoding="utf-8"))["choices"]
            found = RULES[path.stem](path.stem, choices)
            is_right = len(found.differ) <= MAY_DIFFER.get(path.stem, 0)
            num_wrong += not is_right
            print(
                f"{path.stem}: {len(found.differ)} of {found.num_choices} differ"
                f" ({found.num_decisive} without chance){'' if is_right else ': TOO MANY'}"
            )
            if given.keep:
                shutil.copy(path, RECORDED / path.name)
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
