"""The guard of one server: it starts the server and ends it when whoever asked for it is gone.

Run as ``python -I -S guard.py PARENT_PID COMMAND...`` with a pipe from the parent as standard input. vLLM's
server starts processes of its own, so that no signal at the parent's death would reach them all: the guard
gives the server a session, and so a process group, and kills the whole group when the pipe ends. The guard
has a session too, so that Ctrl-C in a terminal reaches neither: the parent decides. The server's process id,
which names its group, is the one line that the guard prints.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading

POLL_S = 0.5


def main(parent: int, command: list[str]) -> int:
    """Run the command to its end, or its parent's; return its exit status, 128 + signal if it was killed."""
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr, start_new_session=True
    )
    threading.Thread(target=_watch, args=(parent, server.pid), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        print(server.pid, flush=True)
    status = server.wait()
    _kill_group(server.pid)  # what the server leaves behind when it dies
    return status if status >= 0 else 128 - status


def _watch(parent: int, group: int) -> None:
    """Kill the group once the parent has gone, also where a fork of the parent keeps the pipe open."""
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    _kill_group(group)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
