"""What is said between Envoy and the picker, with Envoy's part made up."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("grpc", reason="needs the extra picker")

from agents.picker.call import CallSettings
from agents.picker.exchange import Exchange
from agents.picker.wire import OVERWRITE_IF_EXISTS_OR_ADD, message_classes
from tests.agents.picker.picking import nothing_under_way, picking
from tests.agents.router.serving import body, endpoints
from tests.envs.live.fake_vllm import fakes
from tests.envs.live.leaks import soon

pb = SimpleNamespace(**message_classes())
MODES = {"NONE": 0, "STREAMED": 1, "BUFFERED": 2, "BUFFERED_PARTIAL": 3, "FULL_DUPLEX_STREAMED": 4}
EVENTS = b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'


@pytest.fixture(scope="module")
def picker():
    with fakes(2) as servers, picking(servers) as picker:
        yield picker


def header_map(headers):
    made = pb.HttpHeaders()
    for key, value in headers.items():
        made.headers.headers.add(key=key, raw_value=value.encode("latin-1"))
    return made


def request_headers(
    path="/v1/completions",
    method="POST",
    request="FULL_DUPLEX_STREAMED",
    response="FULL_DUPLEX_STREAMED",
    is_all=False,
    subset=None,
    is_early=False,
    **headers,
):
    message = pb.ProcessingRequest(request_headers=header_map({":path": path, ":method": method, **headers}))
    message.request_headers.end_of_stream = is_all
    said = message.protocol_config
    said.request_body_mode, said.response_body_mode = MODES[request], MODES[response]
    said.send_body_without_waiting_for_header_response = is_early
    if subset is not None:
        space = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        space.update({"x-gateway-destination-endpoint-subset": subset})
    return message


def request_body(data, is_last=True):
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=is_last))


def response_headers(status="200", kind="text/event-stream", is_all=False, served=None):
    made = header_map({":status": status, "content-type": kind})
    message = pb.ProcessingRequest(response_headers=made)
    message.response_headers.end_of_stream = is_all
    if served is not None:
        space = message.metadata_context.filter_metadata["envoy.lb"]
        space.update({"x-gateway-destination-endpoint-served": served})
    return message


def response_body(data, is_last):
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=is_last))


def request_trailers():
    return pb.ProcessingRequest(request_trailers=pb.HttpTrailers())


def response_trailers():
    return pb.ProcessingRequest(response_trailers=pb.HttpTrailers())


def asks(**more):
    return json.dumps(body(**more)).encode()


def replies(picker, *messages, ends=True):
    """What the picker replies to each, read by Envoy's own stubs."""

    async def run():
        exchange = Exchange(picker.calls, picker._messages)
        said = [[pb.ProcessingResponse.FromString(one) for one in exchange.take(each)] for each in messages]
        if ends:
            exchange.end()
        return said

    return asyncio.run_coroutine_threadsafe(run(), picker._logging.get_loop()).result(timeout=30)


def where(reply):
    """The one address that a reply names, in header and metadata alike."""
    part = reply.WhichOneof("kind")
    common = getattr(reply, part).response
    assert common.clear_route_cache
    (option,) = common.header_mutation.set_headers
    assert option.header.key == "x-gateway-destination-endpoint"
    assert option.append_action == OVERWRITE_IF_EXISTS_OR_ADD
    said = option.header.raw_value.decode()
    assert reply.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == said
    return said


def addresses(picker):
    return [picker.calls.destinations.of(instance) for instance in picker.desk.fleet]


def test_in_full_duplex_the_request_is_passed_on_by_the_picker(picker):
    data = b'{"prompt": "' + b"x" * 10_000 + b'"}' + b" " * 190_000
    parts = [data[:100_000], data[100_000:], b""]
    messages = [request_body(part, number == 2) for number, part in enumerate(parts)]
    first, *nothing, said = replies(picker, request_headers(), *messages)
    assert first == []
    assert not any(nothing)
    assert where(said[0]) in addresses(picker)
    assert said[0].WhichOneof("kind") == "request_headers"
    chunks = [one.request_body.response.body_mutation.streamed_response for one in said[1:]]
    assert b"".join(chunk.body for chunk in chunks) == data
    assert max(len(chunk.body) for chunk in chunks) <= 1 << 16
    assert [chunk.end_of_stream for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert nothing_under_way(picker)


def test_a_request_may_end_with_trailers(picker):
    first, second, said = replies(
        picker, request_headers(), request_body(asks(), is_last=False), request_trailers()
    )
    assert first == second == []
    assert [one.WhichOneof("kind") for one in said] == [
        "request_headers",
        "request_body",
        "request_trailers",
    ]
    assert not said[1].request_body.response.body_mutation.streamed_response.end_of_stream


def test_when_buffered_the_answer_to_the_body_says_where(picker):
    headers, said = replies(picker, request_headers(request="BUFFERED"), request_body(asks()))
    assert [one.WhichOneof("kind") for one in headers] == ["request_headers"]
    assert not headers[0].request_headers.response.header_mutation.set_headers
    assert [one.WhichOneof("kind") for one in said] == ["request_body"]
    assert where(said[0]) in addresses(picker)


def test_when_streamed_each_chunk_gets_an_answer(picker):
    parts = [request_body(asks(), is_last=False), request_body(b"", is_last=True)]
    headers, first, said = replies(picker, request_headers(request="STREAMED", is_early=True), *parts)
    assert headers == first == []
    kinds = [one.WhichOneof("kind") for one in said]
    assert kinds == ["request_headers", "request_body", "request_body"]


@pytest.mark.parametrize(
    ("messages", "status", "what"),
    [
        ([request_headers(request="NONE")], 500, "request_body_mode is NONE: set it to FULL_DUPLEX_STREAMED"),
        ([request_headers(request="STREAMED")], 500, "request_body_mode is STREAMED"),
        ([request_headers(), request_body(b"{")], 400, "the body is not JSON"),
        ([request_headers(), request_body(b"{}")], 400, "prompt is missing"),
        ([request_headers(is_all=True)], 400, "the body is not JSON"),
        ([request_body(asks())], 500, "headers must come first"),
        ([request_headers(), request_headers()], 500, "headers must come first, and once"),
        ([request_headers(request="BUFFERED"), request_body(asks()), request_body(asks())], 500, "once"),
        ([request_headers(), request_body(asks(model="other"))], 404, "no instance serves 'other'"),
        ([request_headers(**{"content-length": "9000000"})], 413, "more than 8388608 bytes"),
        ([request_headers(), request_body(b" " * 9_000_000)], 413, "more than 8388608 bytes"),
        ([request_headers(subset=[]), request_body(asks())], 503, "of the 0 endpoints of the subset hint"),
        ([request_headers(subset="127.0.0.1:1"), request_body(asks())], 503, "of the 1 endpoints"),
        ([request_headers(subset="x", path="/v1/models", method="GET", is_all=True)], 503, "none is known"),
    ],
)
def test_what_cannot_be_is_answered_by_the_picker(picker, messages, status, what):
    *_, said = replies(picker, *messages)
    assert len(said) == 1
    immediate = said[0].immediate_response
    error = json.loads(immediate.body)["error"]
    assert (immediate.status.code, error["code"]) == (status, status)
    assert what in error["message"]
    headers = {one.header.key: one.header.raw_value for one in immediate.headers.set_headers}
    assert headers["content-type"].startswith(b"application/json")
    assert ("retry-after" in headers) == (status == 503)
    assert nothing_under_way(picker)


@pytest.mark.parametrize("form", [list, ",".join, " , ".join])
@pytest.mark.parametrize("number", [0, 1])
def test_a_subset_is_obeyed(picker, form, number):
    wanted = addresses(picker)[number]
    for _ in range(3):  # round robin would leave it
        subset = form(["10.9.9.9:80", wanted])
        *_, said = replies(picker, request_headers(subset=subset), request_body(asks()))
        assert where(said[0]) == wanted
        (said,) = replies(picker, request_headers("/v1/models", "GET", is_all=True, subset=subset))
        assert where(said[0]) == wanted


def test_what_has_no_prompt_goes_to_the_least_busy_and_is_not_counted(picker):
    first, second = picker.desk.fleet
    first.num_in_flight += 1
    try:
        for path, method, is_all in (("/v1/models", "GET", True), ("/tokenize", "POST", False)):
            said = replies(
                picker,
                request_headers(path, method, is_all=is_all),
                *([] if is_all else [request_body(b"{}")]),
            )
            assert where(said[-1][0]) == picker.calls.destinations.of(second)
    finally:
        first.num_in_flight -= 1
    assert nothing_under_way(picker)


def whole(*answer, **more):
    return [request_headers(**more), request_body(asks()), *answer]


def spied(picker, monkeypatch):
    """What the desk is told from now on."""
    told = []
    for name in ("first_token", "served", "failed", "gave_up", "moved"):
        real = getattr(picker.desk, name)
        monkeypatch.setattr(
            picker.desk,
            name,
            lambda ticket, *rest, name=name, real=real, **more: (
                told.append((name, ticket.instance.endpoint.name, *rest[:1])),
                real(ticket, *rest, **more),
            )[1],
        )
    return told


def test_first_token_and_number_of_tokens_are_read_off_a_stream(picker, monkeypatch):
    told = spied(picker, monkeypatch)
    usage = b'data: {"usage": {"completion_tokens": 41}}\n\n'
    answer = [response_headers(), response_body(EVENTS, False), response_body(usage, True)]
    *_, headers, first, last = replies(picker, *whole(*answer))
    assert [each[0] for each in told] == ["first_token", "served"]
    assert told[1][2] == 41
    assert [one.WhichOneof("kind") for one in headers] == ["response_headers"]
    assert first[0].response_body.response.body_mutation.streamed_response.body == EVENTS
    assert last[0].response_body.response.body_mutation.streamed_response.end_of_stream


@pytest.mark.parametrize(
    ("answer", "told_of"),
    [
        ([response_headers(), response_body(EVENTS, False)], ["first_token", "gave_up"]),
        ([response_headers(), response_body(EVENTS, False), response_trailers()], ["first_token", "served"]),
        ([response_headers(kind="application/json"), response_body(b"{}", True)], ["served"]),
        ([response_headers("503"), response_body(b"{}", True)], ["failed"]),
        ([response_headers("500", is_all=True)], ["failed"]),
        ([response_headers("400"), response_body(b"{}", True)], ["served"]),
        ([response_headers()], ["gave_up"]),
        ([], ["gave_up"]),
        (
            [response_headers(), response_body(EVENTS, True), response_body(EVENTS, True)],
            ["first_token", "served"],
        ),
    ],
)
def test_what_becomes_of_a_request(picker, monkeypatch, answer, told_of):
    told = spied(picker, monkeypatch)
    replies(picker, *whole(*answer, response="STREAMED"))
    told = [name for name, *_ in told]
    assert [name for name in told if name != "first_token" or "first_token" in told_of] == told_of
    assert nothing_under_way(picker)


def test_without_its_body_an_answer_is_whole_when_the_exchange_ends(picker, monkeypatch):
    told = spied(picker, monkeypatch)
    replies(picker, *whole(response_headers(), response="NONE"))
    assert [name for name, *_ in told] == ["served"]


def test_the_one_that_served_is_counted(picker, monkeypatch):
    told = spied(picker, monkeypatch)
    first, second = picker.desk.fleet
    wanted = [picker.calls.destinations.of(each) for each in (first, second)]
    answer = [response_headers(served=wanted[1]), response_body(EVENTS, True)]
    before = first.num_failed, second.num_served
    replies(picker, *whole(*answer, subset=wanted[0]))
    assert [(name, which) for name, which, *_ in told] == [
        ("moved", "a"),
        ("failed", "a"),
        ("first_token", "b"),
        ("served", "b"),
    ]
    assert (first.num_failed, second.num_served) == (before[0] + 1, before[1] + 1)
    del told[:]
    for served in (wanted[0], "10.9.9.9:80", "nonsense"):
        answer = [response_headers(served=served), response_body(EVENTS, True)]
        replies(picker, *whole(*answer, subset=wanted[0]))
    assert [name for name, *_ in told] == ["first_token", "served"] * 3
    assert nothing_under_way(picker)


def test_fallbacks_are_told_best_first():
    with fakes(3) as servers, picking(servers, calls=CallSettings(num_fallbacks=1)) as picker:
        known = addresses(picker)
        *_, said = replies(picker, request_headers(), request_body(asks()))
        chosen = where(said[0]).split(",")
        assert len(set(chosen)) == 2
        assert set(chosen) <= set(known)
        *_, said = replies(picker, request_headers(subset=known[2:]), request_body(asks()))
        assert where(said[0]) == known[2]


def test_beyond_the_bounds_it_is_429():
    bounds = CallSettings(max_in_flight_per_instance=1, max_in_flight=3)
    with fakes(2) as servers, picking(servers, calls=bounds) as picker:

        async def run():
            held, statuses = [], []
            for subset in (None, None, None, [addresses(picker)[0]]):
                exchange = Exchange(picker.calls, picker._messages)
                exchange.take(request_headers(subset=subset))
                (said, *_) = exchange.take(request_body(asks()))
                statuses.append(pb.ProcessingResponse.FromString(said).immediate_response.status.code)
                held.append(exchange)
            counted = [instance.num_in_flight for instance in picker.desk.fleet]
            for exchange in held:
                exchange.end()
                exchange.end()
            return statuses, counted

        statuses, counted = asyncio.run_coroutine_threadsafe(run(), picker._logging.get_loop()).result(30)
        assert (statuses, counted) == ([0, 0, 429, 429], [1, 1])
        assert picker.calls.statuses == {499: 2, 429: 2}
        assert nothing_under_way(picker)


@pytest.mark.parametrize("number", ["²", "9" * 5000, "x", "-1", ""])
def test_numbers_that_are_none_do_not_end_the_exchange(picker, number):
    messages = [
        request_headers(**{"content-length": number}),
        request_body(asks()),
        response_headers(status=number),
        response_body(EVENTS, True),
    ]
    *_, picked, passed, last = replies(picker, *messages)
    assert where(picked[0]) in addresses(picker)
    assert passed
    assert last
    assert nothing_under_way(picker)


def test_one_that_leaves_keeps_what_it_has_and_gets_nothing_new():
    with fakes(2) as servers, picking(servers) as picker:
        both = endpoints(servers)

        async def run():
            exchange = Exchange(picker.calls, picker._messages)
            gone = addresses(picker)[0]
            exchange.take(request_headers(subset=[gone]))
            exchange.take(request_body(asks()))
            await picker.desk.fleet.become({"b": both["b"]})
            left = len(list(picker.desk.fleet))
            other = Exchange(picker.calls, picker._messages)
            other.take(request_headers(subset=[gone]))
            (said,) = other.take(request_body(asks()))
            for each in (other, exchange):  # the client does not wait any longer
                each.end()
            return left, pb.ProcessingResponse.FromString(said).immediate_response.status.code

        told = asyncio.run_coroutine_threadsafe(run(), picker._logging.get_loop()).result(30)
        assert told == (2, 503)
        assert soon(lambda: [each.endpoint.name for each in picker.desk.fleet] == ["b"])
        *_, said = replies(picker, request_headers(), request_body(asks()))
        assert where(said[0]) == addresses(picker)[0] == f"127.0.0.1:{servers[1].port}"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"max_body_bytes": 0}, "calls.max_body_bytes is 0"),
        ({"num_fallbacks": -1}, "calls.num_fallbacks is -1"),
        ({"max_in_flight": 0}, "calls.max_in_flight is 0"),
        ({"max_in_flight_per_instance": 0}, "calls.max_in_flight_per_instance is 0"),
    ],
)
def test_bounds_that_cannot_be_are_refused(options, what):
    with pytest.raises(ValueError, match=what):
        CallSettings(**options)


def anything():
    """Messages in any order, those of a usual exchange among them."""
    requests = st.builds(
        request_headers,
        path=st.sampled_from(["/v1/completions", "/x/v1/chat/completions", "/v1/models", ""]),
        request=st.sampled_from(sorted(MODES)),
        response=st.sampled_from(sorted(MODES)),
        is_all=st.booleans(),
        is_early=st.booleans(),
    )
    bodies = st.builds(request_body, st.sampled_from([b"", b"{", asks()]), st.booleans())
    served = st.sampled_from([None, "10.9.9.9:1", "x"])
    answers = st.builds(
        response_headers, st.sampled_from(["200", "503", "x", ""]), is_all=st.booleans(), served=served
    )
    parts = st.builds(response_body, st.sampled_from([b"", EVENTS]), st.booleans())
    trailers = st.builds(request_trailers) | st.builds(response_trailers)
    loose = st.lists(
        requests | bodies | answers | parts | trailers | st.builds(pb.ProcessingRequest), max_size=6
    )
    usual = st.tuples(st.builds(request_headers), st.just(request_body(asks())), answers, parts).map(list)
    return usual.flatmap(lambda messages: st.integers(0, 4).map(lambda num: messages[:num])) | loose


def placed(message, address):
    """With an address that there is in place of the one that stands for it."""
    space = message.metadata_context.filter_metadata.get("envoy.lb")
    if space is not None and space["x-gateway-destination-endpoint-served"] == "x":
        space["x-gateway-destination-endpoint-served"] = address
    return message


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(streams=st.lists(anything(), min_size=1, max_size=5), data=st.data())
def test_whatever_is_said_nothing_is_left_behind(picker, streams, data):
    """Streams side by side, their messages mixed, each ended in its middle or not."""
    order = data.draw(st.permutations([number for number, each in enumerate(streams) for _ in each]))
    before = sum(picker.calls.statuses.values())

    async def run():
        exchanges = [Exchange(picker.calls, picker._messages) for _ in streams]
        left = [
            [placed(each, addresses(picker)[number % 2]) for each in messages]
            for number, messages in enumerate(streams)
        ]
        for number in order:
            if not exchanges[number].is_over:
                for reply in exchanges[number].take(left[number].pop(0)):
                    assert pb.ProcessingResponse.FromString(reply).WhichOneof("kind")
        num_begun = sum(exchange._call is not None for exchange in exchanges)
        for exchange in exchanges:
            exchange.end()
        return num_begun

    num_begun = asyncio.run_coroutine_threadsafe(run(), picker._logging.get_loop()).result(timeout=30)
    assert nothing_under_way(picker)
    assert sum(picker.calls.statuses.values()) == before + num_begun
