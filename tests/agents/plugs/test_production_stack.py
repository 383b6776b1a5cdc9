"""production-stack's plug, with stand-ins for the router; integration/production_stack.py runs the router."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest

from agents.export.runtime import load
from agents.plugs.chooser import Chooser
from agents.plugs.production_stack import Answer, install, route, watched
from agents.plugs.prompt import of_body
from agents.plugs.view import Gauges

URLS = ["http://a", "http://b", "http://c"]
ENDPOINTS = [SimpleNamespace(url=url) for url in URLS]
REQUEST = SimpleNamespace(headers={"x-session-id": "s"})


def stream(chunks, status=200, kind="text/event-stream; charset=utf-8", error=None):
    async def process_request(request, body, backend_url, request_id, *rest, **options):
        yield {"content-type": kind}, status
        for chunk in chunks:
            yield chunk
        if error is not None:
            raise error

    return process_request


async def drain(process, url, body=b"{}", stop_after=None):
    passed = []
    generator = process(REQUEST, body, url, "id", "/v1/completions", None, parent_span_context=None)
    async for item in generator:
        passed.append(item)
        if len(passed) == stop_after:
            break
    await generator.aclose()
    return passed


EVENT = b'data: {"choices": [{"text": "a"}]}\n\n'


def test_it_routes_as_the_bundle_decides(folders):
    chooser, bundle = Chooser(folders["network"], seed=0, clock=lambda: 0.0), load(folders["network"])
    bundle.reset(np.random.default_rng(0))
    rng = np.random.default_rng(3)
    for number in range(100):
        body = {"prompt": "x" * int(rng.integers(1, 9000))}
        expected = bundle.act(chooser.view.look(of_body(body, REQUEST.headers), URLS, 0.0))
        assert asyncio.run(route(chooser, ENDPOINTS, REQUEST, body)) == URLS[expected.instance]
        chooser.scraped(URLS[number % 3], Gauges(float(rng.integers(30))), number + 1.0)


def test_a_request_from_its_start_to_its_end(folders):
    chooser = Chooser(folders["network"])
    chunks = [EVENT, EVENT * 2, b"data: [DONE]\n\n"]
    seen = []

    async def process_request(*arguments, **options):
        async for item in stream(chunks)(*arguments, **options):
            seen.append((chooser.view.num_in_flight("http://a"), chooser.counters()["flights"]))
            yield item

    async def serve():
        url = await route(chooser, ENDPOINTS[:1], REQUEST, {"prompt": "x" * 400})
        return await drain(watched(process_request, chooser), url)

    passed = asyncio.run(serve())
    assert passed[1:] == chunks
    assert seen == [(1, 1)] * 4
    known = chooser.view._instances["http://a"]
    assert (known.num_in_flight, known.num_prefills, known.num_decode_tokens) == (0, 0, 0)
    assert known.recent_ttft_s > 0.0
    assert known.tokens.now(chooser.now_s()) == pytest.approx(103, rel=0.01)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_clients_that_leave(folders, stop_after):
    chooser = Chooser(folders["network"])
    passed = asyncio.run(drain(watched(stream([EVENT] * 5), chooser), "http://a", stop_after=stop_after))
    assert len(passed) == stop_after
    assert chooser.counters()["flights"] == 0
    assert chooser.view.num_in_flight("http://a") == 0


@pytest.mark.parametrize("body", [b"{}", b"not json", b""])
def test_backends_that_fail(folders, body):
    chooser = Chooser(folders["network"])
    process = watched(stream([EVENT], error=ConnectionResetError()), chooser)
    with pytest.raises(ConnectionResetError):
        asyncio.run(drain(process, "http://a", body))
    assert chooser.view.num_in_flight("http://a") == 0


def test_backends_that_refuse(folders):
    chooser = Chooser(folders["network"])

    async def refuse(*arguments, **options):
        raise OSError("refused")
        yield

    with pytest.raises(OSError, match="refused"):
        asyncio.run(drain(watched(refuse, chooser), "http://a"))
    asyncio.run(drain(watched(stream([b"busy"], 503), chooser), "http://a"))
    known = chooser.view._instances["http://a"]
    assert (known.num_in_flight, known.recent_ttft_s, known.tokens.now(chooser.now_s())) == (0, 0.0, 0.0)


def test_tokens_of_an_answer():
    answer = Answer(is_stream=False)
    answer.add(json.dumps({"text": "a" * 9000, "usage": {"completion_tokens": 17}}).encode())
    assert answer.num_output_tokens() == 17
    answer = Answer(is_stream=True)
    for chunk in (EVENT, EVENT, b"data: [DONE]\n\n"):
        answer.add(chunk)
    assert answer.num_output_tokens() == 2
    answer.add(b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 9}}\n\n')
    assert answer.num_output_tokens() == 9


def test_bodies_that_cannot_be(folders):
    chooser = Chooser(folders["network"])
    for body in (None, 3, [], {"messages": 3}, {"prompt": None}):
        assert asyncio.run(route(chooser, ENDPOINTS, REQUEST, body)) in URLS
    assert chooser.counters()["decisions"] == 5


def test_without_the_router():
    with pytest.raises(ImportError, match="needs the router of vLLM production-stack"):
        install({})
