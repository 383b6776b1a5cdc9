"""Servers start together, answer, end, and outlive nobody: with a stand-in for vLLM."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from envs.live.server import ServerError, Servers
from envs.live.server_options import ServerOptions

from .processes import answers, await_none, members, start

ROOT = Path(__file__).parents[3]
CPU = ServerOptions(kind="cpu")


pytestmark = pytest.mark.usefixtures("fake_vllm")


def test_servers_are_up_in_the_block_and_gone_after_it(tmp_path):
    with Servers([CPU, CPU, CPU], tmp_path / "run") as servers:
        assert len(set(servers.urls)) == len(set(servers.kv_event_endpoints)) == len(servers) == 3
        assert all(answers(url) for url in servers.urls)
        groups = [server.group for server in servers]
        assert all(len(members(group)) == 2 for group in groups)
        urls = servers.urls
        log = servers[2].log_path
    assert not any(answers(url) for url in urls)
    for group in groups:
        assert members(group) == []
    assert log == tmp_path / "run" / "cpu-2.log"
    assert "arguments: --host 127.0.0.1" in log.read_text()


def test_kill_and_restart_keep_the_address(tmp_path):
    with Servers([CPU], tmp_path) as servers:
        server = servers[0]
        url, group = server.url, server.group
        server.kill()
        assert not server.is_alive
        assert members(group) == []
        assert not answers(url)
        server.kill()  # there is nothing left to do
        with pytest.raises(
            ServerError, match=r"cpu-0 at http.* ended with status 137; the end of .*cpu-0\.log"
        ):
            server.is_healthy()
        server.restart()
        assert server.url == url
        assert answers(url)
        assert server.log_path.read_text().count("arguments:") == 2
        with pytest.raises(ServerError, match="cpu-0 runs already"):
            server.start()


def test_suspended_servers_answer_when_resumed_and_can_be_ended(tmp_path):
    with Servers([CPU], tmp_path) as servers:
        server = servers[0]
        server.suspend()
        assert not answers(server.url)
        assert server.is_alive
        server.resume()
        assert answers(server.url)
        server.suspend()
        group = server.group
    assert members(group) == []


def test_a_server_without_its_guard_is_ended_too(tmp_path):
    with Servers([CPU], tmp_path) as servers:
        server = servers[0]
        guard = int(Path(f"/proc/{server.group}/stat").read_text().rpartition(") ")[2].split()[1])
        os.kill(guard, signal.SIGKILL)
        while server.is_alive:
            time.sleep(0.01)
        with pytest.raises(ServerError, match="ended with status -9"):
            server.is_healthy()
        group = server.group
        assert members(group)
    await_none(group)


def test_what_ends_at_once_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SERVER", "die")
    with (
        pytest.raises(
            ServerError, match=r"(?s)cpu-[01] .* ended with status 1; .*no such model, says the fake"
        ),
        Servers([CPU, CPU], tmp_path),
    ):
        pytest.fail("it is not up")


def test_what_does_not_answer_in_time_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SERVER", "hang")
    servers = Servers([CPU], tmp_path, start_timeout_s=1.0)
    with pytest.raises(ServerError, match=r"(?s)cpu-0 .* has not answered within 0 s; .*arguments:"), servers:
        pytest.fail("it is not up")
    assert len(servers) == 0


def test_a_port_that_is_taken_is_an_error(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerError, match=rf"cpu-0: port {port} cannot be had \(Address already in use\)"),
            Servers([ServerOptions(kind="cpu", port=port)], tmp_path),
        ):
            pytest.fail("it is not up")


def test_a_port_can_be_named_and_nobody_else_gets_it(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Servers([ServerOptions(kind="cpu", port=port)], tmp_path) as servers:
        assert servers.urls == [f"http://127.0.0.1:{port}"]
        servers[0].kill()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_without_vllm_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.live.server.vllm_python", lambda: None)
    with pytest.raises(ServerError, match="`make vllm` installs it"), Servers([CPU], tmp_path):
        pytest.fail("it is not up")


@pytest.mark.parametrize("options", [[], [ServerOptions(kind="cpu", name="a")] * 2])
def test_servers_need_names_of_their_own(options, tmp_path):
    with pytest.raises(ValueError, match="each needs its own name"):
        Servers(options, tmp_path)


# --- programs that end in every way ---


HOLDER = """
import sys, time
from envs.live.server import *
with Servers([ServerOptions(kind="cpu")] * 2, sys.argv[1]) as servers:
    if sys.argv[2] == "suspended":
        servers[0].suspend()
    print(*(server.group for server in servers), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("state", ["running", "suspended"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_its_parent(number, state, tmp_path):
    holder = start("-c", HOLDER, str(tmp_path), state)
    groups = [int(word) for word in holder.stdout.readline().split()]
    assert len(groups) == 2, holder.communicate()
    assert all(members(group) for group in groups)
    holder.send_signal(number)
    holder.communicate(timeout=60)
    for group in groups:
        await_none(group)


def test_no_server_outlives_a_parent_that_was_forked(tmp_path):
    """The fork holds copies of all that the parent holds."""
    fork = "import os; fork = os.fork(); fork and print(fork, flush=True)"
    forking = HOLDER.replace("    time.sleep(600)", f"    {fork}; time.sleep(600)")
    holder = start("-c", forking, str(tmp_path), "running")
    groups = [int(word) for word in holder.stdout.readline().split()]
    fork = int(holder.stdout.readline())
    try:
        holder.kill()
        for group in groups:
            await_none(group)
    finally:
        os.kill(fork, signal.SIGKILL)
    holder.communicate(timeout=60)
