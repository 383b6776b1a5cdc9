"""The admin listener: who knows the token changes endpoints and policy while requests go on."""

import asyncio
import io
import json
from contextlib import contextmanager

import aiohttp
import pytest

from agents.export import writing
from agents.router.admin import Admin, AdminSettings
from tests.agents.export.exported import export_of
from tests.agents.router.serving import Answer, body, in_loop, post, posts, serving
from tests.envs.live.fake_vllm import fakes
from tests.envs.live.leaks import soon

TOKEN = "a token that nobody guesses"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("admin") / "network"
    writing.write(folder, export_of("network"), lambda part: "a card")
    return folder


@contextmanager
def administered(servers, **settings):
    """A router and its admin listener, and what ended it."""
    ended = []
    with serving(servers, **settings) as router:
        admin = Admin(router, AdminSettings(port=0), TOKEN, lambda: ended.append(True))
        in_loop(router, admin.start())
        try:
            yield router, admin, ended
        finally:
            in_loop(router, admin.stop())


def call(admin, method, path, content=None, token=TOKEN):
    async def run():
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = content if isinstance(content, bytes | None | io.BytesIO) else json.dumps(content).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, admin.url + path, data=data, headers=headers) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    return asyncio.run(run())


def test_without_the_token_nothing_is_told_or_done(folder):
    with fakes(1) as servers, administered(servers) as (router, admin, ended):
        calls = [
            ("GET", "/status", None),
            ("PUT", "/endpoints", {"x": "http://127.0.0.1:1"}),
            ("POST", "/policy", {"bundle": str(folder)}),
            ("POST", "/drain", None),
            ("GET", "/nowhere", None),
        ]
        for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "é"):
            for method, path, content in calls:
                answer = call(admin, method, path, content, token)
                assert answer.status == 401
                assert "instances" not in answer.json
        assert not ended
        assert [instance.endpoint.name for instance in router.fleet] == ["a"]
        assert router.desk.guard.policy is None


def test_the_routers_own_socket_has_no_admin_routes():
    with fakes(1) as servers, administered(servers) as (router, _, _):
        assert post(router, body(), "/drain").status == 405
        assert post(router, body(), "/v1/policy").status == 404


def test_status_tells_what_there_is():
    with fakes(2) as servers, administered(servers) as (router, admin, _):
        posts(router, [body()] * 4)
        assert soon(lambda: router.proxy.num_in_flight == 0)
        said = call(admin, "GET", "/status").json
        assert said["state"] == "ready"
        assert [each["name"] for each in said["instances"]] == ["a", "b"]
        assert [each["served"] for each in said["instances"]] == [2, 2]
        assert said["decisions"]["no_policy"] == 4
        assert said["statuses"] == {"200": 4}
        assert 0 < said["decision_p50_s"] <= said["decision_p99_s"]
        assert said["learning"] is None
        assert soon(lambda: call(admin, "GET", "/status").json["history"])


def test_endpoints_come_and_go_while_requests_go_on():
    with fakes(3, token_interval_s=0.05) as servers, administered(servers[:2]) as (router, admin, _):

        async def run():
            async with aiohttp.ClientSession() as session:
                url = router.url + "/v1/completions"
                response = await session.post(url, json=body(max_tokens=20))
                await response.content.readany()
                new = {"b": servers[1].url, "c": {"url": servers[2].url}}
                answer = await asyncio.to_thread(call, admin, "PUT", "/endpoints", new)
                return answer, await response.read()

        answer, content = asyncio.run(run())
        assert answer.json == {"endpoints": ["b", "c"]}
        assert content.endswith(b"data: [DONE]\n\n")  # what was under way at the one that left was finished
        assert soon(lambda: sorted(each.endpoint.name for each in router.fleet) == ["b", "c"])
        before = len(servers[0].bodies)
        assert {answer.status for answer in posts(router, [body(max_tokens=1)] * 6)} == {200}
        assert len(servers[0].bodies) == before
        assert servers[2].bodies


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        ({}, "there are no endpoints"),
        ({"x": "ftp://y"}, "write it like http://host:8000"),
        ({"x": "http://h:1", "y": "http://h:1"}, "has the same url"),
        ({str(number): f"http://h:{number + 1}" for number in range(5)}, "1 to max_instances"),
        ({"x": {"url": "http://h:1", "weight": 3}}, "unknown key 'weight'"),
    ],
)
def test_endpoints_that_cannot_be_change_nothing(content, reason):
    with fakes(1) as servers, administered(servers) as (router, admin, _):
        answer = call(admin, "PUT", "/endpoints", content)
        assert answer.status == 400
        assert reason in answer.json["error"]
        assert [instance.endpoint.name for instance in router.fleet] == ["a"]
        assert post(router, body()).status == 200


def test_policies_are_loaded_and_taken_away(folder):
    with fakes(1) as servers, administered(servers) as (router, admin, _):
        said = call(admin, "POST", "/policy", {"bundle": str(folder)}).json
        assert said["policy"]["name"] == "network"
        assert router.desk.guard.policy is not None
        for content, reason in (
            ({"bundle": "nowhere"}, "holds no bundle"),
            ({"bundle": 7}, "it must be a folder or null"),
            ({"version": 1}, "this router does not learn"),
            ({"policy": "x"}, 'write {"bundle": FOLDER}'),
        ):
            answer = call(admin, "POST", "/policy", content)
            assert answer.status == 400
            assert reason in answer.json["error"]
        assert router.desk.guard.policy is not None  # the one that was there decides on
        assert call(admin, "POST", "/policy", {"bundle": None}).json == {"policy": None}


def test_drain_ends_the_router():
    with fakes(1) as servers, administered(servers) as (_, admin, ended):
        assert call(admin, "POST", "/drain").json == {"state": "draining"}
        assert ended == [True]


def test_a_large_body_is_refused():
    with fakes(1) as servers, administered(servers) as (_, admin, _):
        assert call(admin, "PUT", "/endpoints", io.BytesIO(b"x" * (2 << 20))).status == 413


def test_settings_keep_it_on_this_machine(monkeypatch):
    with pytest.raises(ValueError, match=r"admin\.host is 0\.0\.0\.0, it must be of this machine alone"):
        AdminSettings(host="0.0.0.0")
    monkeypatch.setenv("ROUTEGYM_ADMIN_TOKEN", "short")
    with pytest.raises(ValueError, match="has 5 characters, it must have 16 at least"):
        AdminSettings().token()
    monkeypatch.delenv("ROUTEGYM_ADMIN_TOKEN")
    assert AdminSettings().token() is None
