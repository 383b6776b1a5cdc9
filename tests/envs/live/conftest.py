"""Servers that all tests marked ``live`` share: two modelled ones and two with the tiny model on the CPU."""

import pytest

from envs.live.server import Servers
from envs.live.server_options import ServerOptions
from envs.live.vllm_python import NO_VLLM, vllm_python

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
