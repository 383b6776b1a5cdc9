"""vLLM servers on this machine, for as long as a ``with`` block lasts.

    with Servers([ServerOptions(profile="h100_llama-3.1-8b", time_scale=10)] * 2, "runs/live") as servers:
        print(servers.urls)

``python -m envs.live.serve`` does so from the command line.

No server outlives the process that started it, however that ends (``guard.py``).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from tqdm import tqdm

from envs.live import guard, tiny_model
from envs.live.server_options import ServerOptions
from envs.live.vllm_python import NO_VLLM, vllm_python

START_TIMEOUT_S = 300.0
"""Four servers on two cores are up after two minutes, nearly all of it Python's imports."""
STOP_TIMEOUT_S = 15.0
POLL_S = 0.1
NUM_QUOTED_LINES = 15


class ServerError(RuntimeError):
    """A server that cannot be started, or is not as it should be."""


class Server:
    """One server; ``Servers`` makes them."""

    def __init__(self, options: ServerOptions, directory: Path, python: Path, model: Path) -> None:
        """Reserve the port; nothing is started yet.

        Args:
            options: With a name.
            directory: Holds ``{name}.log`` and, of a modelled server, ``{name}.steps.jsonl``.
            python: The one that has vLLM.
            model: The tiny model.
        """
        self.options = options
        self.name = str(options.name)
        self.log_path = directory / f"{self.name}.log"
        """What the server wrote, of all its starts."""
        self.step_log_path = directory / f"{self.name}.steps.jsonl" if options.kind == "modelled" else None
        """One line of JSON for each engine step (``in_vllm/modelled_device.py``)."""
        self.kv_events = f"ipc://@routegym-{uuid4().hex}"  # a name without a file, which nobody need remove
        self._python = python
        self._model = model
        self._guard: subprocess.Popen[str] | None = None
        self.group = 0
        """The server's process group, while it is alive."""
        self._socket = _reserved(options)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def is_alive(self) -> bool:
        """Whether its process runs (or is suspended)."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Start it and do not wait."""
        if self.is_alive:
            raise ServerError(f"{self.name} runs already")
        self._release()
        options = self.options
        command = [str(self._python), "-m", "vllm.entrypoints.openai.api_server"]
        command += options.arguments(self.port, self.kv_events, self._model)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= options.environment(self.step_log_path)
        with self.log_path.open("a", encoding="utf-8") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        answer = self._guard.stdout.readline()
        if not answer:
            raise ServerError(f"{self.name} could not be started; {self._last_words()}")
        self.group = int(answer)

    def await_health(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it answers. Raises ``ServerError`` where it dies first, or takes longer."""
        deadline = time.monotonic() + timeout_s
        while not self.is_healthy():
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.name} at {self.url} has not answered within {timeout_s:g} s; {self._last_words()}"
                )
            time.sleep(POLL_S)

    def is_healthy(self) -> bool:
        """Whether /health answers. Raises ``ServerError`` where the process has ended."""
        if self._guard is None or self._guard.poll() is not None:
            status = None if self._guard is None else self._guard.returncode
            raise ServerError(f"{self.name} at {self.url} ended with status {status}; {self._last_words()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask it to end (SIGTERM); kill it where it takes longer than ``timeout_s``."""
        self.terminate()
        self.await_end(timeout_s)

    def terminate(self) -> None:
        """Ask it to end and do not wait."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def await_end(self, timeout_s: float) -> None:
        """Wait until it has ended; kill it where it takes longer."""
        if self._guard is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL to all its processes), and wait until it has ended."""
        self._signal(signal.SIGKILL)
        if self._guard is not None and self._guard.wait() < 0:  # somebody has killed the guard alone
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)
        self._release()

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it anew at its old address, killing it first where it lives, and wait until it answers."""
        self.kill()
        self.start()
        self.await_health(timeout_s)

    def suspend(self) -> None:
        """Halt all its processes (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and give its port back."""
        self.kill()
        self._socket.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, number)

    def _release(self) -> None:
        """Let go of a guard that has ended."""
        if self._guard is not None:
            for pipe in (self._guard.stdin, self._guard.stdout):
                if pipe is not None:
                    pipe.close()

    def _last_words(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        quoted = "\n".join(f"  {line}" for line in lines[-NUM_QUOTED_LINES:])
        return f"the end of {self.log_path}:\n{quoted}"


def _reserved(options: ServerOptions) -> socket.socket:
    """A socket that keeps the port from everyone but a server that will listen on it (SO_REUSEADDR)."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind(("127.0.0.1", options.port or 0))
    except OSError as error:
        reserved.close()
        raise ServerError(
            f"{options.name}: port {options.port} cannot be had ({error.strerror}); say another, or none"
        ) from error
    return reserved


class Servers:
    """Several servers, started together when the ``with`` block is entered and ended when it is left."""

    def __init__(
        self,
        options: Sequence[ServerOptions],
        directory: Path | str,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """Nothing is started yet.

        Args:
            options: One for each server; their names must differ.
            directory: For logs, made where it is not there; logs of earlier servers are replaced.
            start_timeout_s: How long all of them together may take until they answer.
        """
        self.options = [row.named(number) for number, row in enumerate(options)]
        self.directory = Path(directory)
        self.start_timeout_s = start_timeout_s
        self._servers: list[Server] = []
        names = [row.name for row in self.options]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"servers are called {names}: there must be some, and each needs its own name")

    def __enter__(self) -> Servers:
        """Start all and wait until all answer. Raises ``ServerError`` where one does not; none is left."""
        python = vllm_python()
        if python is None:
            raise ServerError(NO_VLLM)
        self.directory.mkdir(parents=True, exist_ok=True)
        model = tiny_model.make(self.directory.resolve() / "tiny-model")
        try:
            for options in self.options:
                server = Server(options, self.directory.resolve(), python, model)
                self._servers.append(server)
                for path in (server.log_path, server.step_log_path):
                    if path is not None:
                        path.unlink(missing_ok=True)
            for server in self._servers:
                server.start()
            self._await_health()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all."""
        try:
            self.stop()
        finally:
            self._close()

    def __len__(self) -> int:
        return len(self._servers)

    def __getitem__(self, number: int) -> Server:
        return self._servers[number]

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers)

    @property
    def urls(self) -> list[str]:
        """Of each server, without a slash at the end."""
        return [server.url for server in self._servers]

    @property
    def kv_event_endpoints(self) -> list[str]:
        """ZMQ addresses at which each server publishes its KV events."""
        return [server.kv_events for server in self._servers]

    def endpoints(self) -> dict[str, dict[str, object]]:
        """Name -> what a router must know of the server."""
        return {
            server.name: server.options.endpoint(server.url, server.kv_events) for server in self._servers
        }

    def stop(self) -> None:
        """Ask all to end, together; kill those that take too long."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.await_end(max(0.0, deadline - time.monotonic()))

    def _close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    def _await_health(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        missing = list(self._servers)
        form = "{desc} {n_fmt}/{total_fmt} after {elapsed}"
        with tqdm(total=len(missing), desc="vLLM servers up:", disable=None, bar_format=form) as bar:
            while missing:
                up = [server for server in missing if server.is_healthy()]
                missing = [server for server in missing if server not in up]
                if missing and time.monotonic() > deadline:
                    missing[0].await_health(0.0)
                bar.update(len(up))
                bar.refresh()
                time.sleep(POLL_S if missing else 0)
