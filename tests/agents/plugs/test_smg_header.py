"""smg's plug, with a stand-in for its registry; integration/smg_header.py runs smg."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from agents.export.runtime import load
from agents.plugs.prompt import of_body
from agents.plugs.smg_header import HEADER, ROUTED_HEADER, SmgHeader, workers_of
from agents.plugs.view import Gauges

URLS = ["http://127.0.0.1:9", "http://127.0.0.1:7", "http://127.0.0.1:8"]


def listed(*urls, **changes):
    workers = [
        {"url": url, "models": [{"id": "fake"}], "model_id": "fake", "is_healthy": True} for url in urls
    ]
    return {"workers": [worker | changes for worker in workers]}


class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/workers"
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format, *values):
        pass


@pytest.fixture
def registry():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.status, server.content = 200, json.dumps(listed(*URLS)).encode()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def plug(registry, folders):
    made = SmgHeader(registry.url, interval_s=30.0, bundle=folders["network"], seed=0, clock=lambda: 0.0)
    time.sleep(0.1)  # its first round
    yield made
    made.stop()


def test_the_header_names_what_the_bundle_chooses(plug, folders):
    bundle, rng = load(folders["network"]), np.random.default_rng(3)
    bundle.reset(np.random.default_rng(0))
    for number in range(100):
        body = {"model": "fake", "prompt": "x" * int(rng.integers(1, 9000))}
        expected = bundle.act(plug.chooser.view.look(of_body(body), URLS, 0.0))
        call = plug.route(body)
        assert call.headers == {HEADER: str(expected.instance)}
        assert call.url == URLS[expected.instance]
        plug.chooser.scraped(URLS[number % 3], Gauges(float(rng.integers(30))), number + 1.0)
        call.ended(5)
    assert plug.counters()["flights"] == 0


def test_a_request_that_went_elsewhere(plug):
    call = plug.route({"prompt": "x" * 400})
    other = next(url for url in URLS if url != call.url)
    call.answered({"X-SMG-Routed-Worker-Id": other})
    assert (plug.chooser.view.num_in_flight(call.url), plug.chooser.view.num_in_flight(other)) == (0, 1)
    assert plug.route({}).headers == {}  # until the workers are read again
    assert plug.refresh()
    again = plug.route({})
    assert again.headers != {}
    again.ended(0)
    call.first_token()
    call.ended(3)
    assert plug.chooser.view.num_in_flight(other) == 0
    assert plug.counters()["misrouted"] == plug.counters()["without_header"] == 1


def test_a_request_that_went_where_it_was_meant_to(plug):
    call = plug.route({})
    call.answered({ROUTED_HEADER: call.url})
    call.answered({})
    assert "misrouted" not in plug.counters()


def test_the_index_is_among_the_available(registry, plug):
    held = listed(*URLS)
    held["workers"][0]["is_healthy"] = False
    held["workers"][1]["models"], held["workers"][1]["model_id"] = [{"id": "other"}], "other"
    registry.content = json.dumps(held).encode()
    plug.refresh()
    call = plug.route({"model": "fake"})
    assert (call.url, call.headers) == (URLS[2], {HEADER: "0"})
    assert plug.route({"model": "nobody's"}).headers == {}


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b"{}", b'{"workers": 3}', b'{"workers": [3]}', b'{"workers": [{}]}']
)
def test_registries_that_cannot_be(registry, plug, content):
    registry.content = content
    assert not plug.refresh()
    assert plug.route({"prompt": "a"}).headers == {}
    assert plug.counters()["unread"] == 1


def test_an_smg_that_fails_or_is_not_there(registry, plug, folders):
    registry.status = 401
    assert not plug.refresh()
    nobody = SmgHeader("http://127.0.0.1:1", interval_s=30.0, bundle=folders["network"])
    assert nobody.route({}).headers == {}
    nobody.stop()
    with pytest.raises(ValueError, match="must begin with http"):
        SmgHeader("127.0.0.1:1", bundle=folders["network"])


def test_other_workers_are_left_out():
    assert workers_of(listed("http://a", worker_type="prefill")) == []
    assert workers_of(listed("http://a", connection_mode="grpc")) == []
    (worker,) = workers_of(listed("http://a", models=None))
    assert worker == ("http://a", frozenset({"fake"}), True)


def test_bodies_that_cannot_be(plug):
    for body in (None, 3, [], "text", {"model": 3}, {"messages": 3}):
        call = plug.route(body, {"X-Session-Id": "s"})
        call.answered({})
        call.ended(0)
    assert plug.counters()["flights"] == 0
