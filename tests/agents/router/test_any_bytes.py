"""Whatever bytes a client or an instance sends, the router goes on, and holds nothing of it afterwards."""

import json
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.router.proxy import ProxySettings
from tests.agents.router.serving import LIMITS, body, post, serving
from tests.agents.router.test_proxy import nothing_under_way, raw
from tests.envs.live.fake_vllm import METRICS, fakes
from tests.envs.live.leaks import soon

ASKED = json.dumps(body(num_words=5, max_tokens=2)).encode()
REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Request-Id: a\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(ASKED), ASKED)
)
CHUNK = b'data: {"choices": [{"text": " a", "finish_reason": null}]}\n\n'
EVENTS = CHUNK + b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
ANSWERS = [
    ANSWER + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(EVENTS), EVENTS),
    ANSWER + b"Content-Length: %d\r\n\r\n%s" % (len(EVENTS), EVENTS),
    ANSWER + b"\r\n" + EVENTS,
]
SCRAPED = METRICS.format(running=0, waiting=0, usage=0, queries=0, hits=0).encode()
MODELS = b'{"object": "list", "data": [{"id": "tiny", "max_model_len": 8192}]}'
ODD = [
    b"\r\n",
    b"\n",
    b"\x00",
    b": ",
    b"-1",
    b"chunked",
    b"\xff" * 9,
    b"9" * 30,
    b"a" * 20_000,
    b" HTTP/1.1\r\n",
]


def spoilt(whole):
    """What becomes of good bytes: parts of them left out, doubled, or replaced by others."""
    changes = st.lists(
        st.tuples(
            st.integers(0, len(whole)),
            st.integers(0, 12),
            st.sampled_from(ODD) | st.binary(max_size=6),
        ),
        max_size=4,
    )

    def apply(changes):
        content = whole
        for start, num_gone, new in changes:
            content = content[:start] + new + content[start + num_gone :]
        return content

    return changes.map(apply) | st.binary(max_size=200)


@pytest.fixture(scope="module")
def router():
    quick = ProxySettings(idle_timeout_s=0.2, body_timeout_s=0.2, first_byte_timeout_s=1.0)
    with fakes(2) as servers, serving(servers, proxy=quick) as router:
        yield router


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=spoilt(REQUEST))
def test_whatever_a_client_sends(router, sent):
    got = raw(router, sent)
    assert got == b"" or got.startswith(b"HTTP/")  # 0.9, where no version was sent
    assert post(router, body()).status == 200
    assert soon(lambda: nothing_under_way(router))


@contextmanager
def instance():
    """One that answers every POST with ``answer`` and then hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))
    held = SimpleNamespace(url=f"http://127.0.0.1:{listening.getsockname()[1]}", answer=b"")

    def serve(connection):
        with connection, suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (part := connection.recv(65536)):
                    return
                asked += part
            if asked.startswith(b"POST"):
                connection.sendall(held.answer)
                connection.shutdown(socket.SHUT_WR)
                return
            content = SCRAPED if b"/metrics" in asked else MODELS
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content)
            connection.sendall(head + content)

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield held
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join(timeout=10)


@pytest.fixture(scope="module")
def before_one():
    """An instance, and a router that never gives it up."""
    patient = replace(LIMITS, unhealthy_after=10**9)
    quick = ProxySettings(first_byte_timeout_s=1.0, token_timeout_s=1.0)
    with instance() as held, serving([held], proxy=quick, limits=patient) as router:
        held.answer = ANSWERS[0]
        assert post(router, body()).content == EVENTS
        yield held, router


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.sampled_from(ANSWERS).flatmap(spoilt))
def test_whatever_an_instance_answers(before_one, answer):
    held, router = before_one
    held.answer = answer
    got = post(router, body())
    assert got.status
    if got.status >= 500 and not answer.startswith(b"HTTP/1.1 5"):
        assert got.json["error"]["message"]
    assert soon(lambda: nothing_under_way(router))


def test_a_stream_without_a_byte_is_no_answer(before_one):
    held, router = before_one
    held.answer = ANSWER + b"Content-Length: 0\r\n\r\n"
    got = post(router, body())
    assert got.status == 502
    assert (
        got.json["error"]["message"]
        == "instance a: a stream without a byte; none of 1 instances is up but where it failed"
    )


def test_a_client_that_does_not_read_is_left_and_nobody_else_blamed():
    chunk = b'data: {"choices": [{"text": "%s"}]}\n\n' % (b"a" * 100_000)
    many = ANSWER + b"Content-Length: %d\r\n\r\n" % (300 * len(chunk)) + 300 * chunk
    limits = ProxySettings(token_timeout_s=2.0, client_timeout_s=3.0)
    with instance() as held, serving([held], proxy=limits) as router:
        held.answer = many
        host, port = router.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(REQUEST)
            assert soon(lambda: router.proxy.num_in_flight == 1)
            assert soon(lambda: nothing_under_way(router))
            assert router.proxy.statuses[499] == 1
            assert [each.num_failed for each in router.fleet] == [0]
            assert soon(lambda: len(router._runner.server.connections) == 0)
        held.answer = ANSWERS[0]
        assert post(router, body()).content == EVENTS


def test_headers_that_are_no_http_are_not_passed_on(before_one):
    held, router = before_one
    held.answer = ANSWERS[1].replace(b"text/event-stream", b"text/event-stream\r\nX-Odd: \x01")
    got = post(router, body())
    assert got.status == 502
    assert "control characters in the header X-Odd" in got.json["error"]["message"]
