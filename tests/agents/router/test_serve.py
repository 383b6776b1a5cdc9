"""``python -m agents.serve`` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
from hydra import compose, initialize_config_module

from agents.config import register
from agents.export import writing
from agents.serve import make_router
from conf.build import ConfigError
from tests.agents.export.exported import export_of
from tests.agents.router.serving import body
from tests.envs.live.fake_vllm import fakes
from tests.envs.live.leaks import soon

register()


@contextmanager
def running(*arguments):
    """The program, ready; its process and its address."""
    command = [sys.executable, "-m", "agents.serve", "router.port=0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("routing at http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[2].rstrip(";")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ask(url, content=None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "network"
    writing.write(folder, export_of("network"), lambda part: "a card")
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_routes_by_a_bundle_until_it_is_told_to_end(number, folder, tmp_path):
    with fakes(2) as servers:
        file = tmp_path / "endpoints.json"
        file.write_text(json.dumps({"a": servers[0].url, "b": {"url": servers[1].url}}))
        options = ["router.guard.check_range=false", "router.guard.holdout=0", "router.log_requests=all"]
        options += ["router.guard.max_decision_s=60", "router.limits.scrape_timeout_s=10"]  # for a busy one
        with running(f"policy={folder}", f"endpoints={file}", *options) as (process, url):
            assert soon(lambda: "ready, 2 instances up" in ask(url + "/readyz"))
            for _ in range(4):
                assert ask(url + "/v1/completions", body()).endswith("data: [DONE]\n\n")
            metrics = ask(url + "/metrics")
            assert 'routegym_decisions_total{by="policy"} 4.0' in metrics
            assert 'routegym_requests_total{status="200"} 4.0' in metrics
            assert 'routegym_instance_up{instance="b"} 1.0' in metrics
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert [event["event"] for event in events] == ["ready", *["request"] * 4, "draining", "stopped"]
        assert events[1]["instance"] in ("a", "b")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "endpoints: null; give a file that names servers"),
        (["endpoints=nowhere.json"], r"endpoints: there is no file nowhere\.json"),
        (["endpoints={a: ftp://x}"], "write it like http://host:8000"),
        (["endpoints={a: http://x:1, b: http://x:1}"], "endpoint 'a' has the same url"),
        (["endpoints={a: http://x:1}", "policy=nowhere"], "nowhere holds no bundle"),
        (["endpoints={a: http://x:1}", "router.port=70000"], "port is 70000"),
        (["endpoints={a: http://x:1}", "router.seed=-1"], "seed is -1, it must be"),
        (["endpoints={a: http://x:1}", "router.guard.share=2"], "guard.share is 2"),
        (["endpoints={a: http://x:1}", "+router.guard.shares=2"], "takes no such key; did you mean share"),
        (["endpoints={a: http://x:1}", "agent@heuristic=linucb"], "heuristic: it learns; give a rule"),
        (["endpoints={a: http://x:1}", "agent@heuristic=vtc"], "heuristic: it goes by outcomes"),
        (["endpoints={a: http://x:1, b: http://x:2}", "router.max_instances=1"], "there are 2 endpoints"),
    ],
)
def test_what_cannot_be_is_told(overrides, reason):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("serve", overrides)
    with pytest.raises((ValueError, ConfigError), match=reason):
        make_router(config)


def test_a_policy_for_fewer_instances_is_refused(folder):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(
            "serve", ["endpoints={a: http://x:1}", f"policy={folder}", "router.max_instances=100"]
        )
    with pytest.raises(ValueError, match="was exported for 64 instances, max_instances is 100: lower it"):
        make_router(config)


def test_a_port_that_is_taken_is_told():
    with fakes(1) as servers:
        port = servers[0].port
        command = [sys.executable, "-m", "agents.serve", f"router.port={port}"]
        command.append("endpoints={a: http://127.0.0.1:1}")
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert said.returncode == 2
        where = f"cannot listen at 127.0.0.1:{port} (address already in use)"
        assert said.stderr.endswith(f"{where}; change router.host or router.port\n")


def test_help():
    command = [sys.executable, "-m", "agents.serve", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=os.environ)
    assert "python -m agents.serve: an OpenAI-compatible router" in said.stdout
