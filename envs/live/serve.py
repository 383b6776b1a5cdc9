"""Run vLLM servers on this machine until Ctrl-C, or while a command runs.

    python -m envs.live.serve kind=modelled count=2 profile=h100_llama-3.1-8b time_scale=10
    python -m envs.live.serve kind=cpu count=2 -- routegym-evaluate cluster=live ...

Their addresses stand in ``runs/live/endpoints.json`` meanwhile, which ``cluster=live`` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from envs.live.server import POLL_S, STOP_TIMEOUT_S, ServerError, Servers
from envs.live.server_options import ServerOptions, parse
from envs.taken import take
from envs.unfinished import whole

ENDPOINTS = "endpoints.json"
INTERRUPTED = 130
"""Exit status where a command was ended by Ctrl-C."""
_USAGE = (
    "kind=modelled profile=h100_llama-3.1-8b[,ANOTHER] [time_scale=10] [count=2] [directory=runs/live]"
    " [-- COMMAND]"
)


def serve(assignments: Sequence[str], command: Sequence[str] = ()) -> int:
    """Run servers as ``count=... directory=...`` and options of ``ServerOptions`` say.

    Args:
        assignments: KEY=VALUE; where several profiles are named, there are ``count`` servers of each.
        command: What to run meanwhile; without one they run until interrupted.

    Returns:
        The command's exit status.

    Raises:
        ValueError: An assignment is not as it must be.
        ServerError: A server cannot be started, or has ended.
    """
    others, given = parse(assignments)
    known = {"count": "1", "directory": "runs/live"}
    if unknown := sorted(others.keys() - known.keys()):
        names = ", ".join([*known, *(field.name for field in fields(ServerOptions))])
        raise ValueError(f"unknown {', '.join(unknown)}; there are {names}")
    count, directory = (known | others).values()
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"count is {count!r}, it must be a whole number from 1")
    profiles = given.pop("profile", "").split(",")
    options = [ServerOptions(profile=name or None, **given) for name in profiles for _ in range(int(count))]
    if len(options) > 1 and (taken := sorted(given.keys() & {"name", "port"})):
        raise ValueError(f"{taken[0]} is one server's own, and there are {len(options)}")
    path = Path(directory) / ENDPOINTS
    with _taken(Path(directory)), Servers(options, directory) as servers:
        try:
            with whole(path) as part:
                part.write_text(json.dumps(servers.endpoints(), indent=2) + "\n", encoding="utf-8")
            print(f"{len(servers)} up: {', '.join(servers.urls)}. Logs and {ENDPOINTS} are in {directory}.")
            if not command:
                print(
                    f"Next: routegym-evaluate cluster=live cluster.endpoints={path} ...    Ctrl-C ends them."
                )
            sys.stdout.flush()
            return _run(command, servers)
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _taken(directory: Path) -> Iterator[None]:
    """Take a directory for these servers alone."""
    try:
        descriptor = take(directory)
    except BlockingIOError as error:
        raise ServerError(f"other servers run in {directory}: end them, or say directory=ANOTHER") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _run(command: Sequence[str], servers: Servers) -> int:
    """Run a command while all servers live; without one, wait until one of them ends."""
    process = subprocess.Popen(command) if command else None
    try:
        while all(server.is_alive for server in servers):
            if process is not None and process.poll() is not None:
                return process.returncode
            time.sleep(POLL_S)
        for server in servers:
            server.is_healthy()  # says which has ended, and its last words
    except KeyboardInterrupt:
        if process is None:
            raise
        _await_end(process)  # Ctrl-C went to it too
        return INTERRUPTED
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            _await_end(process)
    raise AssertionError("a server that is not alive is not healthy")


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a command that was asked to end has ended; ask once more, then kill it, if it does not."""
    for ask in (process.terminate, process.kill):
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            ask()
    process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``serve``; Ctrl-C and SIGTERM are the way to end it."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.live.serve",
        description="Start vLLM servers on this machine, write their addresses to DIRECTORY/endpoints.json"
        " and run them while a command runs, or until Ctrl-C."
        f" Options, and what each is without: {_described()}.",
    )
    parser.add_argument("assignments", nargs="*", metavar="KEY=VALUE", help=_USAGE)
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = serve(options.assignments, words[end + 1 :])
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    except (ValueError, OSError, ServerError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    else:
        sys.exit(status)


def _described() -> str:
    return ", ".join(f"{field.name} ({field.default})" for field in fields(ServerOptions))


if __name__ == "__main__":
    main()
