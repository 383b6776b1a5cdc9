"""Servers that all tests marked ``live`` share, and a stand-in for vLLM for tests that are not."""

import sys
from pathlib import Path

import pytest

from envs.live.server import Servers
from envs.live.server_options import ServerOptions
from envs.live.vllm_python import NO_VLLM, vllm_python

from .processes import members

PROFILE = "h100_llama-3.1-8b"
TIME_SCALE = 10
MODELLED = ServerOptions(
    profile=PROFILE, time_scale=TIME_SCALE, num_blocks=1024, max_model_len=8192, scheduling_policy="priority"
)
CPU = ServerOptions(kind="cpu")


@pytest.fixture(scope="session")
def live_servers(tmp_path_factory):
    """``Servers``: modelled, modelled, cpu, cpu. Whoever kills one restarts it."""
    if vllm_python() is None:
        pytest.skip(NO_VLLM)
    with Servers([MODELLED, MODELLED, CPU, CPU], tmp_path_factory.mktemp("servers")) as servers:
        yield servers
        groups = [server.group for server in servers]
    assert [members(group) for group in groups] == [[], [], [], []]


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    """A Python that runs the stand-in, whatever module it is asked for."""
    python = tmp_path / "python"
    script = Path(__file__).parent / "fake_server.py"
    python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("ROUTEGYM_VLLM", str(python))
    return python
