"""Runs other people's routers with a bundle's plugs, each in an environment of its own.

    make plugs
    python -m tests.agents.plugs.integration.run [--only ray] [--policy dynamo_cost]

An environment (``.venv-plugs-<name>``) is made on first use, of pinned versions; none of it enters ours. What
cannot be installed or is not there is skipped with the reason. The exit status is 0 if none failed.

production-stack is not among Python's packages: clone vllm-project/production-stack (a6c01db was tested) and
give its folder as ``PRODUCTION_STACK``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agents.export import writing
from tests.agents.export.exported import KINDS, export_of

ROOT = Path(__file__).parents[4]
SCRIPTS = Path(__file__).parent
INSTALL_LIMIT_S, RUN_LIMIT_S = 900, 240
SETTINGS = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}


class SkippedError(Exception):
    """Why a router was not run."""


@dataclass(frozen=True)
class Host:
    """A router."""

    name: str
    """Of its environment, and of its constraints."""
    script: str
    python: str = "3.11"
    purpose: str = "plugs"
    """What it is run for; the same."""
    source: str = ""
    """Environment variable with the folder of its source, where it is no package."""

    @property
    def environment(self) -> Path:
        """The folder of its environment."""
        return ROOT / f".venv-{self.purpose}-{self.name}"

    @property
    def constraints(self) -> Path:
        """The file of its pinned versions."""
        return ROOT / f"constraints-{self.purpose}-{self.name}.txt"


HOSTS = (
    Host("ray", "ray_serve"),
    Host("litellm", "litellm_strategy"),
    Host("smg", "smg_header"),
    Host("stack", "production_stack", python="3.12", source="PRODUCTION_STACK"),
)


def interpreter(version: str) -> str:
    """A Python of this version. Raises ``SkippedError``."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for found in (shutil.which(f"python{version}"), *map(str, installed)):
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    raise SkippedError(f"there is no Python {version}")


def install(host: Host) -> Path:
    """Make the environment where it is not; return its Python. Raises ``SkippedError``."""
    python, done = host.environment / "bin" / "python", host.environment / ".installed"
    pinned = host.constraints.read_text(encoding="utf-8")
    if done.exists() and done.read_text(encoding="utf-8") == pinned:
        return python
    print(f"{host.name}: installing into {host.environment.name}", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement"]
    for command in (
        [interpreter(host.python), "-m", "venv", "--clear", str(host.environment)],
        [*pip, str(host.constraints)],
    ):
        try:
            subprocess.run(command, timeout=INSTALL_LIMIT_S, check=True, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            raise SkippedError(f"not installed within {INSTALL_LIMIT_S} s") from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SkippedError(f"cannot be installed here: {reason}") from None
    done.write_text(pinned, encoding="utf-8")
    return python


def run(host: Host, folder: Path) -> bool:
    """Run a router with the bundle in a folder; return whether all was well. Raises ``SkippedError``."""
    paths = [str(folder)]
    if host.source:
        if not os.environ.get(host.source):
            raise SkippedError(f"set {host.source} to the folder of its source")
        paths.append(str(Path(os.environ[host.source]) / "src"))
    python = install(host)
    process = subprocess.Popen(
        [str(python), str(SCRIPTS / f"{host.script}.py")],
        env={**os.environ, **SETTINGS, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
    )
    try:
        return process.wait(timeout=RUN_LIMIT_S) == 0
    except subprocess.TimeoutExpired:
        print(f"{host.name}: not done within {RUN_LIMIT_S} s", flush=True)
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind, in the group that it began
        process.wait()


def main() -> int:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=[host.name for host in HOSTS], action="append")
    parser.add_argument("--policy", choices=sorted(KINDS), default="dynamo_cost")
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "bundle"
        writing.write(folder, export_of(given.policy), lambda part: "a card")
        for host in HOSTS:
            if given.only and host.name not in given.only:
                continue
            started_s = time.monotonic()
            try:
                outcome = "passed" if run(host, folder) else "FAILED"
            except SkippedError as reason:
                outcome = f"skipped: {reason}"
            lines.append(f"{host.name}: {outcome} ({time.monotonic() - started_s:.0f} s)")
            print(lines[-1], flush=True)
    print("\n".join(["", *lines]))
    return any("FAILED" in line for line in lines)


if __name__ == "__main__":
    sys.exit(main())
