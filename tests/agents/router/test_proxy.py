"""The proxy before small real servers: what clients get, whatever the servers and the clients do."""

import asyncio
import io
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest

from agents.router.proxy import ProxySettings
from agents.router.router import Router
from envs.live.endpoint import Endpoint
from tests.agents.router.serving import (
    LIMITS,
    SETTINGS,
    ask,
    body,
    endpoints,
    get,
    in_loop,
    post,
    posts,
    serving,
)
from tests.envs.live.fake_vllm import FakeVllm, fakes
from tests.envs.live.leaks import nothing_left, soon

QUICK = ProxySettings(first_byte_timeout_s=2.0, token_timeout_s=1.5)
"""Where a fault makes one wait for these, and slow enough for a busy machine where none does."""


def nothing_under_way(router):
    """Whether the router counts nothing as in flight, anywhere."""
    table = router.desk.view._knowledge.table
    counted = [instance.num_in_flight for instance in router.fleet]
    return router.proxy.num_in_flight == 0 and not any(counted) and not table[:, 5:10].any()


@pytest.fixture
def clean():
    """No thread, no socket is left behind."""
    with nothing_left():
        yield


@pytest.mark.usefixtures("clean")
def test_a_stream_is_passed_on_as_it_was():
    with fakes(2) as servers, serving(servers) as router:
        answer = post(router, body())
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.events[-1] == "[DONE]"
        assert len(answer.events) == 7  # five tokens, usage, end
        chat = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 2,
            "stream": True,
        }
        assert post(router, chat, "/v1/chat/completions").events[-1] == "[DONE]"
        assert soon(lambda: nothing_under_way(router))
        assert router.proxy.statuses == {200: 2}
        assert [len(server.bodies) for server in servers] == [1, 1]


def test_the_first_token_is_not_held_back():
    with fakes(1, ttft_s=0.0, token_interval_s=3600.0) as servers, serving(servers) as router:

        async def run():
            async with (
                aiohttp.ClientSession() as session,
                session.post(router.url + "/v1/completions", json=body(max_tokens=3)) as response,
            ):
                return await response.content.readany()

        assert b'"text":"a"' in asyncio.run(run())  # while the second one is not yet made


def test_what_is_asked_is_passed_on_to_the_byte():
    with fakes(1) as servers, serving(servers) as router:
        odd = b'{"model":"tiny",  "max_tokens":1,"prompt":"\\u00e9 x" ,"priority":-3,"unknown":[1]}'
        headers = {"X-Request-Id": "mine-7", "Authorization": "Bearer abc", "Priority": "u=1", "X-Other": "7"}
        headers |= {"Connection": "X-Secret", "X-Secret": "hop"}
        assert post(router, odd, headers=headers).status == 200
        got, said = servers[0].headers[0], servers[0].bodies[0]
        assert said == json.loads(odd)
        assert (got["X-Request-Id"], got["Authorization"], got["Priority"], got["X-Other"]) == (
            "mine-7",
            "Bearer abc",
            "u=1",
            "7",
        )
        assert "X-Secret" not in got
        assert got["Accept-Encoding"] == "identity"
        assert len(got.getall("Content-Length")) == 1


def test_an_instances_own_key_replaces_the_clients(monkeypatch):
    monkeypatch.setenv("INSTANCE_KEY", "of-the-instance")
    with FakeVllm() as server:
        endpoint = Endpoint("a", server.url, api_key_env="INSTANCE_KEY")

        async def run():
            router = Router(SETTINGS, {"a": endpoint}, None, serving_heuristic())
            await router.start()
            async with aiohttp.ClientSession() as session:
                await ask(session, router.url, body(), headers={"Authorization": "Bearer of-the-client"})
            await router.stop()

        asyncio.run(run())
        assert server.headers[0].getall("Authorization") == ["Bearer of-the-instance"]


def serving_heuristic():
    from agents.heuristics.round_robin import RoundRobin

    return RoundRobin()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the fake's own sockets
@pytest.mark.parametrize("fault", ["500", "503", "refuse_stream", "not_http", "hang"])
def test_what_has_not_sent_a_byte_is_tried_elsewhere(fault):
    with fakes(2) as servers, serving(servers, proxy=QUICK) as router:
        servers[0].faults = [fault]
        answers = [post(router, body()) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert all(answer.events[-1] == "[DONE]" for answer in answers)
        assert router.proxy.counts["num_retries"] == 1
        assert soon(lambda: nothing_under_way(router))


@pytest.mark.usefixtures("clean")
def test_it_is_tried_elsewhere_once():
    with fakes(3) as servers, serving(servers, proxy=QUICK) as router:
        for server in servers:
            server.fault = "refuse_stream"
        answer = post(router, body())
        assert answer.status == 502
        assert answer.json["error"]["type"] == "bad_gateway_error"
        assert "instance b: connection broke off" in answer.json["error"]["message"]
        assert sum(len(server.bodies) for server in servers) == 2
        assert soon(lambda: nothing_under_way(router))


@pytest.mark.parametrize("num_retries", [0, 1])
def test_the_last_ones_own_error_is_passed_on_and_counts_as_a_failure(num_retries):
    with fakes(2) as servers, serving(servers, proxy=ProxySettings(num_retries=num_retries)) as router:
        for server in servers:
            server.fault = "503"
        answer = post(router, body())
        assert answer.status == 503
        assert answer.json["error"]["message"] == "told "  # the server's
        assert sum(instance.num_failed for instance in router.fleet) == 1 + num_retries
        assert sum(instance.num_served for instance in router.fleet) == 0


@pytest.mark.parametrize("status", ["400", "429"])
def test_what_speaks_against_the_request_is_not_tried_again(status):
    with fakes(2) as servers, serving(servers) as router:
        servers[0].faults = [status]
        assert post(router, body()).status == int(status)
        assert [len(server.bodies) for server in servers] == [1, 0]
        assert all(instance.health.is_up for instance in router.fleet)


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_stream_that_breaks_off_breaks_off_for_the_client_too(fault):
    with fakes(2) as servers, serving(servers, proxy=QUICK) as router:
        servers[0].faults = [fault]
        answer = post(router, body())
        assert answer.status == 200
        assert isinstance(answer.error, aiohttp.ClientPayloadError)
        assert len(answer.events) == 4
        error = json.loads(answer.events[-1])["error"]
        assert error["type"] == "bad_gateway_error"
        assert error["message"].startswith("instance a: ")
        assert "[DONE]" not in answer.events
        assert sum(len(server.bodies) for server in servers) == 1  # a byte was sent: it is not tried again
        assert router.proxy.counts["num_broken_off"] == 1
        assert soon(lambda: nothing_under_way(router))


@pytest.mark.usefixtures("clean")
def test_a_client_that_goes_cancels_the_request():
    with fakes(1, token_interval_s=0.05) as servers, serving(servers) as router:

        async def run():
            async with aiohttp.ClientSession() as session:
                response = await session.post(router.url + "/v1/completions", json=body(max_tokens=1000))
                await response.content.readany()
                response.close()

        asyncio.run(run())
        assert soon(lambda: servers[0].num_aborted == 1)
        assert soon(lambda: nothing_under_way(router))
        assert router.proxy.statuses == {499: 1}
        assert router.fleet[0].num_failed == 0


@pytest.mark.usefixtures("clean")
def test_a_client_that_goes_before_the_first_token_cancels_it_too():
    with fakes(1, ttft_s=30.0) as servers, serving(servers) as router:

        async def run():
            timeout = aiohttp.ClientTimeout(total=0.2)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                with pytest.raises(TimeoutError):
                    await session.post(router.url + "/v1/completions", json=body(stream=False))

        asyncio.run(run())
        assert soon(lambda: nothing_under_way(router))
        assert soon(lambda: servers[0].num_running == 0)


def test_the_deadline_is_for_the_whole_answer():
    settings = ProxySettings(request_timeout_s=2.0)  # in which the first token comes on a busy machine too
    with fakes(1, token_interval_s=0.05) as servers, serving(servers, proxy=settings) as router:
        answer = post(router, body(max_tokens=1000))
        assert isinstance(answer.error, aiohttp.ClientPayloadError)
        assert soon(lambda: router.proxy.statuses == {200: 1})  # what the client was sent
        assert router.proxy.counts["num_broken_off"] == 1
        servers[0].fault = "hang"
        answer = post(router, body())
        assert (answer.status, answer.json["error"]["type"]) == (504, "timeout_error")
        assert soon(lambda: nothing_under_way(router))
        assert router.proxy.statuses == {200: 1, 504: 1}


def test_an_error_in_the_router_is_not_the_clients(monkeypatch):
    def raises(*_):
        raise ZeroDivisionError

    with fakes(1) as servers, serving(servers) as router:
        monkeypatch.setattr(router.desk, "send", raises)
        assert post(router, body()).status == 500
        assert soon(lambda: router.proxy.statuses == {500: 1})


@pytest.mark.usefixtures("clean")
def test_an_instance_that_is_down_gets_nothing_until_it_is_back():
    with fakes(2) as servers, serving(servers) as router:
        servers[0].stop()
        assert soon(lambda: router.fleet.num_open == 1)
        assert [answer.status for answer in posts(router, [body()] * 6)] == [200] * 6
        assert len(servers[1].bodies) == 6
        servers[0].start()
        assert soon(lambda: router.fleet.num_open == 2)
        posts(router, [body()] * 6)
        assert servers[0].bodies


def test_with_all_down_clients_are_told():
    with fakes(1) as servers, serving(servers) as router:
        servers[0].stop()
        assert soon(lambda: router.fleet.num_open == 0)
        answer = post(router, body())
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json["error"]["message"] == "none of 1 instances is up"
        assert get(router, "/readyz").status == 503
        assert get(router, "/healthz").status == 200
        servers[0].start()


def test_one_that_cannot_be_reached_at_the_start_is_waited_for():
    with FakeVllm() as server, FakeVllm() as other:
        other.stop()
        with serving([server, other]) as router:
            assert soon(lambda: router.fleet.num_open == 1)
            assert post(router, body()).status == 200
            other.start()
            assert soon(lambda: router.fleet.num_open == 2)
            assert soon(lambda: router.fleet[1].models == ("tiny",))


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "the body is not a JSON object"),
        (b"[" * 1_900, 400, "the body is not JSON"),
        (b'{"model": "tiny"}', 400, "prompt is missing"),
        (b'{"prompt": 7}', 400, "the prompt is neither text nor token ids"),
        (b'{"prompt": [1, "a"]}', 400, "the prompt is neither text nor token ids"),
        (b'{"prompt": [-1]}', 400, "the prompt is neither text nor token ids"),
        (b'{"prompt": "a", "stream": "yes"}', 400, "model must be a string and stream true or false"),
        (b'{"prompt": "a", "model": "other"}', 404, "no instance serves 'other'; there is tiny"),
        (b"x" * 3000, 413, "the body has more than 2000 bytes"),
        (b'{"prompt": "' + b"a" * 1900 + b'", "model": "tiny"}', 400, "no instance takes more than 399"),
    ],
)
def test_bad_requests_are_told_why(content, status, message):
    settings = ProxySettings(max_body_bytes=2000)
    with fakes(1, max_model_len=400) as servers, serving(servers, proxy=settings) as router:
        answer = post(router, content)
        assert answer.status == status
        assert message in answer.json["error"]["message"]
        assert servers[0].bodies == []
        assert answer.headers["X-Request-Id"]


def test_other_paths_and_methods():
    with fakes(1) as servers, serving(servers) as router:
        assert post(router, body(), "/v1/files").status == 404
        assert get(router, "/v1/completions").status == 405
        assert get(router, "/admin").status == 404
        assert post(router, body(), "/metrics").status == 405
        models = get(router, "/v1/models").json
        assert [model["id"] for model in models["data"]] == ["tiny"]


def raw(router, *parts, pause_s=0.0):
    """Bytes as they are; what comes back until the router hangs up."""
    host, port = router.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        got = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                got += part
        return got


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        HEAD + b"X-A: a\rb\r\n\r\n",
        HEAD + b"X-A : a\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_http_is_refused(head):
    with fakes(1) as servers, serving(servers, proxy=ProxySettings(idle_timeout_s=0.5)) as router:
        got = raw(router, head)
        assert got == b"" or got.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        assert servers[0].bodies == []
        assert post(router, body()).status == 200


def test_slow_headers_and_slow_bodies_are_not_waited_for():
    settings = ProxySettings(idle_timeout_s=0.4, body_timeout_s=0.4)
    with fakes(1) as servers, serving(servers, proxy=settings) as router:
        assert raw(router, b"POST /v1/comp", b"letions HTTP/1.1\r\nHost: x\r\n", pause_s=0.1) == b""
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        assert raw(router, head + b"{").startswith(b"HTTP/1.1 408 ")


def test_a_chunked_body_has_the_same_limit():
    settings = ProxySettings(max_body_bytes=2000)
    with fakes(1) as servers, serving(servers, proxy=settings) as router:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"400\r\n" + b"a" * 1024 + b"\r\n"
        assert raw(router, head, chunk, chunk, chunk).startswith(b"HTTP/1.1 413 ")


def test_answers_cannot_inject_headers():
    """What a client chose and is sent back, the request's id, cannot end a header."""
    with fakes(1) as servers, serving(servers) as router:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: a%0d%0aX-Evil: 1\r\n"
        got = raw(router, head + b"Connection: close\r\nContent-Length: 1\r\n\r\n{")
        assert b"\r\nX-Evil" not in got


def test_requests_go_to_configured_endpoints_only():
    """Neither an absolute target nor a Host header chooses where a request goes."""
    with fakes(2) as servers, serving(servers[:1]) as router:
        content = json.dumps(body(stream=False, max_tokens=1)).encode()
        other = servers[1].url.removeprefix("http://").encode()
        for target, host in ((b"http://" + other + b"/v1/completions", b"x"), (b"/v1/completions", other)):
            head = b"POST " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n"
            raw(router, head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        assert servers[1].bodies == []


def test_load_balancers_get_notice():
    with fakes(1) as servers, serving(servers, notice_s=2.0) as router:
        stopping = asyncio.run_coroutine_threadsafe(router.stop(), router._logging.get_loop())
        assert soon(lambda: get(router, "/readyz").status == 503)
        assert post(router, body()).status == 200
        stopping.result(timeout=30)


@pytest.mark.usefixtures("clean")
def test_draining_finishes_what_is_under_way_and_takes_nothing_new():
    with fakes(1, token_interval_s=0.02) as servers:

        async def run():
            router = Router(SETTINGS, endpoints(servers), None, serving_heuristic())
            await router.start()
            async with aiohttp.ClientSession() as session:
                asked = [asyncio.create_task(ask(session, router.url, body(max_tokens=20))) for _ in range(5)]
                while len(servers[0].bodies) < 5:
                    await asyncio.sleep(0.01)
                url = router.url
                stopping = asyncio.create_task(router.stop())
                await asyncio.sleep(0.05)
                refused = await ask(session, url, body())
                answers = await asyncio.gather(*asked)
                await stopping
            return refused, answers

        refused, answers = asyncio.run(run())
        assert refused.status in (0, 503)
        assert [answer.events[-1] for answer in answers] == ["[DONE]"] * 5


@pytest.mark.usefixtures("clean")
def test_what_does_not_end_is_cut_off():
    with fakes(1) as servers, serving(servers, drain_s=0.2) as router:
        servers[0].fault = "hang"
        asking = threading.Thread(target=post, args=(router, body()))
        asking.start()
        assert soon(lambda: router.fleet[0].num_in_flight == 1)
        stopping = asyncio.run_coroutine_threadsafe(router.stop(), router._logging.get_loop())
        stopping.result(timeout=30)  # and not another two minutes
        asking.join()
        assert router.proxy.statuses == {499: 1}


def test_an_answer_in_one_piece_may_take_long():
    settings = ProxySettings(first_byte_timeout_s=0.2, token_timeout_s=1.0)
    with fakes(2, ttft_s=1.5) as servers, serving(servers, proxy=settings) as router:
        answer = post(router, body(stream=False, max_tokens=1))
        assert answer.status == 200
        assert sum(len(server.bodies) for server in servers) == 1
        assert router.proxy.counts["num_retries"] == 0


def test_large_bodies_pass():
    with fakes(1, max_model_len=10_000_000) as servers, serving(servers) as router:
        content = io.BytesIO(json.dumps(body(num_words=600_000)).encode())
        assert post(router, content).status == 200
        assert len(servers[0].bodies[0]["prompt"]) == 5 * 600_000


def test_while_draining_connections_that_are_held_are_told():
    with fakes(1) as servers, serving(servers) as router:

        async def run():
            async with aiohttp.ClientSession() as session:
                first = await ask(session, router.url, body(max_tokens=1))
                router.proxy.is_draining = True
                return first, await ask(session, router.url, body(max_tokens=1))

        first, second = asyncio.run(run())
        assert (first.status, second.status) == (200, 503)
        assert second.headers["Connection"] == "close"
        assert "this router is ending" in second.json["error"]["message"]


def test_one_that_leaves_while_its_client_goes_is_let_go():
    with fakes(2, token_interval_s=0.05) as servers, serving(servers) as router:

        async def run():
            async with aiohttp.ClientSession() as session:
                response = await session.post(router.url + "/v1/completions", json=body(max_tokens=1000))
                await response.content.readany()
                await asyncio.to_thread(in_loop, router, router.fleet.become({"b": endpoints(servers)["b"]}))
                assert len(list(router.fleet)) == 2
                response.close()

        asyncio.run(run())
        assert soon(lambda: [each.endpoint.name for each in router.fleet] == ["b"])


@pytest.mark.usefixtures("clean")
def test_many_at_once_lose_nothing():
    patient = replace(LIMITS, unhealthy_after=10**9)  # failures come before what was begun earlier is served
    with fakes(3, ttft_s=0.01) as servers, serving(servers, limits=patient) as router:
        for server in servers:
            server.faults = ["", "500", "", "refuse_stream", "", ""] * 5
        answers = posts(router, [body(max_tokens=3)] * 200)
        assert {answer.status for answer in answers} <= {200, 500, 502}
        assert sum(answer.status == 200 for answer in answers) >= 170
        for answer in answers:
            assert answer.status != 200 or answer.events[-1] == "[DONE]"
        assert soon(lambda: nothing_under_way(router))
        assert sum(router.proxy.statuses.values()) == 200


def test_an_instance_that_was_started_anew_is_asked_again(monkeypatch):
    serves = ["tiny"]

    async def models(self, request):
        return aiohttp.web.json_response({"data": [{"id": serves[0], "max_model_len": 100_000}]})

    monkeypatch.setattr(FakeVllm, "_models", models)
    with FakeVllm() as server, serving([server]) as router:
        server.health_status = server.metrics_status = 500
        assert soon(lambda: router.fleet.num_open == 0)
        serves[0] = "other"
        server.health_status = server.metrics_status = 200
        assert soon(lambda: router.fleet.models() == ["other"])
        assert post(router, body() | {"model": "other"}).status == 200
        assert post(router, body()).status == 404
