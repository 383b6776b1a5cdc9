"""The picker's own sockets, and ``python -m agents.picker`` as a user runs it."""

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from hydra import compose, initialize_config_module

grpc = pytest.importorskip("grpc", reason="needs the extra picker")

from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402

from agents.config import register  # noqa: E402
from agents.picker.__main__ import make_picker  # noqa: E402
from agents.picker.picker import HEALTH_SERVICES, SERVICE  # noqa: E402
from conf.build import ConfigError  # noqa: E402
from tests.agents.picker.picking import nothing_under_way, picking  # noqa: E402
from tests.agents.picker.test_exchange import (  # noqa: E402
    EVENTS,
    asks,
    pb,
    request_body,
    request_headers,
    response_body,
    response_headers,
    where,
)
from tests.envs.live.fake_vllm import fakes  # noqa: E402
from tests.envs.live.leaks import soon  # noqa: E402

register()
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Said:
    """Messages for a stream, given one by one."""

    def __init__(self):
        self._messages, self._more = [], threading.Condition()

    def say(self, *messages):
        with self._more:
            self._messages.extend(messages)
            self._more.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self._more:
            assert self._more.wait_for(lambda: self._messages, timeout=30)
            message = self._messages.pop(0)
        if message is None:
            raise StopIteration
        return message


@contextmanager
def channel_to(port, **credentials):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def process_of(channel):
    return channel.stream_stream(
        f"/{SERVICE}/Process",
        request_serializer=pb.ProcessingRequest.SerializeToString,
        response_deserializer=pb.ProcessingResponse.FromString,
    )


def health(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_says_how_it_is():
    with fakes(2) as servers, picking(servers) as picker, channel_to(picker.port) as channel:
        assert [health(channel, service) for service in HEALTH_SERVICES] == [SERVING] * 4
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health(channel, "other")
        assert get(picker.pages_url + "/healthz") == (200, "alive\n")
        assert get(picker.pages_url + "/readyz") == (200, "ready, 2 instances up\n")
        assert get(picker.pages_url + "/") == (404, "there is /healthz, /readyz, /metrics and /counts\n")
        process = process_of(channel)
        messages = [request_headers(), request_body(asks()), response_headers(), response_body(EVENTS, True)]
        assert len(list(process(iter(messages), timeout=30))) == 4
        assert soon(lambda: nothing_under_way(picker))
        metrics = get(picker.pages_url + "/metrics")[1]
        assert 'routegym_requests_total{status="200"} 1.0' in metrics
        assert 'routegym_decisions_total{by="no_policy"} 1.0' in metrics
        for server in servers:
            server.stop()
        assert soon(lambda: get(picker.pages_url + "/readyz") == (503, "ready, 0 instances up\n"))
        assert health(channel) == SERVING  # it would answer 503 itself
        for server in servers:
            server.start()


def is_unavailable(port):
    """Whether a new client is not answered."""
    with channel_to(port) as channel:
        try:
            health(channel)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


def test_it_finishes_what_it_has_and_says_that_it_is_going():
    with (
        fakes(1) as servers,
        picking(servers, notice_s=3.0, drain_s=300.0) as picker,
        channel_to(picker.port) as channel,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watched).status == SERVING
        process, said = process_of(channel), Said()
        said.say(request_headers(), request_body(asks()))
        replies = process(said, timeout=30)
        assert where(next(replies))
        next(replies)
        picker.stop_soon()
        assert next(watched).status == NOT_SERVING
        assert [health(channel, service) for service in ("readiness", "liveness")] == [NOT_SERVING, SERVING]
        assert get(picker.pages_url + "/readyz") == (503, "draining, 1 instances up\n")
        messages = [request_headers(), request_body(asks()), response_headers(), response_body(EVENTS, True)]
        assert len(list(process(iter(messages), timeout=30))) == 4  # within the time of notice
        assert soon(lambda: is_unavailable(picker.port))  # once that time is over
        said.say(response_headers(), response_body(EVENTS, True), None)
        assert len(list(replies)) == 2
        assert soon(lambda: picker._logging.done())  # and not after drain_s
        assert picker.calls.statuses == {200: 2}


def test_what_does_not_end_is_cut_off():
    with fakes(1) as servers, picking(servers, drain_s=0.3) as picker, channel_to(picker.port) as channel:
        process, said = process_of(channel), Said()
        said.say(request_headers(), request_body(asks()))
        replies = process(said, timeout=30)
        next(replies)
        picker.stop_soon()
        with pytest.raises(grpc.RpcError):
            list(replies)
        said.say(None)
        assert soon(lambda: picker._logging.done())
        assert picker.calls.statuses == {499: 1}
        assert nothing_under_way(picker)


def test_it_speaks_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(make, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    with (
        fakes(1) as servers,
        picking(servers, certificate=str(certificate), private_key=str(key)) as picker,
    ):
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{picker.port}", trusted) as channel:
            assert health(channel) == SERVING
        with channel_to(picker.port) as channel, pytest.raises(grpc.RpcError):
            health(channel)


def test_a_port_that_is_taken_is_told():
    with fakes(1) as servers:
        for name in ("port", "admin_port"):
            with (
                pytest.raises(OSError, match=r"cannot listen at 127\.0\.0\.1"),
                picking(servers, **{name: servers[0].port}),
            ):
                pass


@contextmanager
def running(*arguments):
    """The program, ready; its process, its port, and its pages' address."""
    own = ["picker.port=0", "picker.admin_port=0", "picker.notice_s=0"]
    command = [sys.executable, "-m", "agents.picker", *own, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("picking at 127.0.0.1:"), line + process.stderr.read()
        words = line.split()
        yield process, int(words[2].rstrip(",").rpartition(":")[2]), words[5].rstrip(";")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_picks_until_it_is_told_to_end(number, tmp_path):
    with fakes(2) as servers:
        file = tmp_path / "endpoints.json"
        file.write_text(json.dumps({"a": servers[0].url, "b": {"url": servers[1].url}}))
        options = ["picker.log_requests=all", "picker.limits.scrape_timeout_s=10"]
        with running(f"endpoints={file}", *options) as (process, port, pages):
            assert soon(lambda: "ready, 2 instances up" in get(pages + "/readyz")[1])
            with channel_to(port) as channel:
                process_all = process_of(channel)
                messages = [request_headers(), request_body(asks())]
                messages += [response_headers(), response_body(EVENTS, True)]
                for _ in range(3):
                    list(process_all(iter(messages), timeout=30))
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert [event["event"] for event in events] == ["ready", *["request"] * 3, "draining", "stopped"]
        assert events[1]["status"] == 200


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "endpoints: null; give a file that names servers"),
        (["endpoints={a: http://vllm-0:1}"], "gateways are told ip:port alone"),
        (["endpoints={a: http://10.0.0.1:1}", "policy=nowhere"], "nowhere holds no bundle"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.port=70000"], "port is 70000"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.admin_port=-1"], "admin_port is -1"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.notice_s=-1"], "notice_s is -1"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.certificate=x"], "go together: give both or neither"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.calls.num_fallbacks=-1"], "calls.num_fallbacks is -1"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.guard.share=2"], "guard.share is 2"),
        (["endpoints={a: http://10.0.0.1:1}", "+picker.portt=2"], "takes no such key; did you mean port"),
        (["endpoints={a: http://10.0.0.1:1}", "picker.seed=x"], "'x' is not of type"),
        (["endpoints={a: http://10.0.0.1:1}", "agent@heuristic=linucb"], "heuristic: it learns; give a rule"),
    ],
)
def test_what_cannot_be_is_told(overrides, reason):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("picker", overrides)
    with pytest.raises((ValueError, ConfigError), match=reason):
        make_picker(config)


@pytest.mark.parametrize("absent", ["grpc", "grpc_health.v1", "google.protobuf"])
def test_what_is_not_installed_is_told(absent, monkeypatch):
    monkeypatch.setitem(sys.modules, absent, None)
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("picker", ["endpoints={a: http://10.0.0.1:1}"])
    with pytest.raises(ValueError, match=r"not installed: pip install 'routegym\[picker\]'"):
        make_picker(config)


def test_help():
    command = [sys.executable, "-m", "agents.picker", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "python -m agents.picker: an endpoint picker for Envoy" in said.stdout
