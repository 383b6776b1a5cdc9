"""What a configuration of endpoints may say; every mistake is told with its mend."""

import json

import pytest

from envs.live import fleet
from envs.live.endpoint import Endpoint
from envs.live.fleet import endpoint

from .fake_vllm import FakeVllm, fakes
from .leaks import nothing_left

NOBODY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def test_a_url_alone_and_all_that_can_be_said():
    assert endpoint("a", "http://host:8000/v1/") == Endpoint("a", "http://host:8000")
    entry = {"url": "https://host/proxied", "api": "chat", "max_num_seqs": 8, "profile": None}
    assert endpoint("a", entry) == Endpoint("a", "https://host/proxied", api="chat", max_num_seqs=8)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, r"endpoint 'a' is 3; write its url, or a mapping with url"),
        ({"profile": "x"}, r"endpoint 'a' has no url; write its url, or a mapping with url"),
        ({"url": None}, r"endpoint 'a' has no url; write its url, or a mapping with url"),
        ({"url": NOBODY, "models": "x"}, r"unknown key 'models'; use url, profile, model"),
        ({"url": NOBODY, "max_num_seqs": "8"}, r"max_num_seqs is '8'; write a value of type int"),
        ({"url": NOBODY, "max_num_seqs": True}, r"max_num_seqs is True; write a value of type int"),
        ({"url": NOBODY, "prefix_caching": 1}, r"prefix_caching is 1; write a value of type bool"),
        ({"url": NOBODY, "num_blocks": 0}, r"num_blocks is 0, it must be at least 1"),
        ({"url": NOBODY, "api": "responses"}, r"api is 'responses', it must be completions or chat"),
        ("host:8000", r"url is 'host:8000'; write it like http://host:8000"),
        ("http://", r"url is 'http://'; write it like"),
        ("http://[::1", r"url is 'http://\[::1'; write it like"),
        ("http://host:99999", r"url is 'http://host:99999'; write it like"),
        ("http://host/?key=3", r"write it like http://host:8000"),
    ],
)
def test_mistakes_are_told_with_their_mend(entry, message):
    with pytest.raises(ValueError, match=message):
        endpoint("a", entry)


def test_a_password_in_a_url_is_not_repeated():
    with pytest.raises(ValueError, match="there is a password in its url") as refused:
        endpoint("a", "http://me:hunter2@host:8000")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://host?key=sekrit", "host:8000?key=sekrit", "http://host/#sekrit"])
@pytest.mark.parametrize("key", ["url", "base_url"])
def test_a_query_of_a_url_is_not_repeated(url, key):
    with pytest.raises(ValueError, match=r"endpoint 'a'") as refused:
        endpoint("a", {key: url})
    assert "sekrit" not in str(refused.value)


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        ({}, "there are no endpoints; name at least one"),
        ({"a": None}, "there are no endpoints; name at least one"),
        (
            {"a": NOBODY},
            r"endpoint 'a' \(http://127.0.0.1:1\): connection refused; start the server, or mend",
        ),
        (
            {"a": {"url": NOBODY, "api_key_env": "NO_KEY_HERE"}},
            "the environment variable NO_KEY_HERE, which its",
        ),
        (
            "nowhere/endpoints.json",
            "endpoints: there is no file nowhere/endpoints.json; write one, start local",
        ),
    ],
)
def test_mistakes_of_a_fleet(endpoints, message, monkeypatch, tmp_path):
    monkeypatch.delenv("NO_KEY_HERE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fleet.cluster(endpoints)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "3", "[" * 100_000], ids=["list", "half", "number", "deep"])
def test_a_file_that_is_none(text, tmp_path):
    path = tmp_path / "endpoints.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"endpoints\.json"):
        fleet.cluster(str(path))


def test_what_the_server_does_not_say_or_have():
    with FakeVllm() as server:
        with pytest.raises(ValueError, match="model is 'other', the server has tiny"):
            fleet.cluster({"a": {"url": server.url, "model": "other"}})
        with pytest.raises(ValueError, match="unknown profile 'a100x'"):
            fleet.cluster({"a": {"url": server.url, "profile": "a100x"}})
        with pytest.raises(ValueError, match="http 404; is it the url of an OpenAI-compatible server"):
            fleet.cluster({"a": server.url + "/elsewhere"})
        server.metrics_status = 404
        with pytest.raises(
            ValueError, match="the server does not say its num_blocks, block_size; set it for"
        ):
            fleet.cluster({"a": server.url})
        live = fleet.cluster({"a": {"url": server.url, "num_blocks": 100, "block_size": 32}})
        assert (live.traits[0].num_blocks, live.traits[0].block_size) == (100, 32)


@pytest.mark.parametrize("option", ["scrape_interval_s", "speed_factor", "unhealthy_after"])
def test_numbers_are_positive(option):
    with FakeVllm() as server, pytest.raises(ValueError, match=f"{option} is 0, it must be"):
        fleet.cluster({"a": server.url}, **{option: 0})


@pytest.mark.parametrize("value", [2.5, 3.0, True])
def test_failures_in_a_row_are_whole(value):
    with pytest.raises(ValueError, match=rf"unhealthy_after is {value}, it must be a whole number"):
        fleet.cluster({"a": NOBODY}, unhealthy_after=value)


def test_a_configuration_that_contradicts_the_server():
    with FakeVllm(max_model_len=1000) as server:
        with pytest.raises(ValueError, match="block_size is 32, the server says 16; leave it out"):
            fleet.cluster({"a": {"url": server.url, "block_size": 32}})
        with pytest.raises(ValueError, match="max_model_len is 1001, the server takes 1000; leave it out"):
            fleet.cluster({"a": {"url": server.url, "max_model_len": 1001}})
        live = fleet.cluster({"a": {"url": server.url, "block_size": 16, "max_model_len": 999}})
        assert (live.traits[0].block_size, live.traits[0].max_model_len) == (16, 999)


def test_the_same_server_twice():
    with pytest.raises(ValueError, match=r"endpoint 'b' \(.*\): endpoint 'a' has the same url"):
        fleet.cluster({"a": NOBODY, "b": NOBODY + "/v1/"})


@pytest.mark.parametrize(
    ("text", "twice"), [('{"a": "x", "b": "y", "a": "z"}', "a"), ('{"a": {"url": "x", "url": "y"}}', "url")]
)
def test_a_file_that_says_a_name_twice(text, twice, tmp_path):
    path = tmp_path / "endpoints.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"endpoints\.json: '{twice}' is there twice"):
        fleet.cluster(str(path))


def test_a_fleet_from_a_file(tmp_path):
    with fakes(2) as (x, y):
        path = tmp_path / "endpoints.json"
        path.write_text(json.dumps({"x": {"url": x.url}, "y": y.url}))
        live = fleet.cluster(str(path), keep_token_times=True)
        assert [trait.name for trait in live.traits] == ["x", "y"]
        assert live.keep_token_times
