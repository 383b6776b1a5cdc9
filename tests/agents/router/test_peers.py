"""Routers that tell each other what they count."""

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from agents.router.asked import Identity, asked
from agents.router.gossip import counts_of, read
from agents.router.peers import PeersSettings
from envs import observation as columns
from envs.cluster import Request
from envs.counts import COUNTED, NUM_TTFT
from envs.sends import MAX_KEYS
from tests.agents.router.serving import body, get, post, posts, serving
from tests.agents.router.test_proxy import nothing_under_way
from tests.envs.live.fake_vllm import FakeVllm, fakes
from tests.envs.live.leaks import nothing_left, soon

NUM = len(COUNTED) + NUM_TTFT


def asking(*urls, **settings):
    return PeersSettings(urls=urls, **{"interval_s": 0.01, "timeout_s": 10.0, "max_age_s": 30.0, **settings})


def read_asked(content):
    return asked("/v1/completions", json.dumps(content).encode(), {}, Identity())


@pytest.fixture(scope="module")
def desk():
    with FakeVllm() as server, serving([server]) as router:
        yield router.desk


def in_flight(router):
    """As a policy of this router would see it."""
    view = router.desk.view
    return view.look(Request(10**9, 0.0, 16, 1), 0.0)["instances"][:, columns.NUM_IN_FLIGHT].tolist()


def test_one_sees_what_the_other_has_in_flight():
    with (
        nothing_left(),
        fakes(2, ttft_s=5.0) as servers,
        serving(servers) as one,
        serving(servers, peers=asking(one.url)) as other,
    ):
        assert soon(lambda: other.desk.num_peers == 1)
        asking_one = threading.Thread(target=lambda: posts(one, [body(max_tokens=1)] * 3))
        asking_one.start()
        assert soon(lambda: sum(in_flight(other)) == 3)
        assert in_flight(other) == in_flight(one)
        asking_one.join()
        assert soon(lambda: sum(in_flight(other)) == 0)
        assert nothing_under_way(one)


def test_counts_are_a_page():
    with FakeVllm() as server, serving([server]) as router:
        began_s = time.monotonic()
        post(router, body(num_words=200, max_tokens=1))
        said = get(router, "/counts").json
        halvings = (time.monotonic() - began_s) / 30  # since it came, at most
        assert list(said["instances"]) == ["a"]
        assert len(said["instances"]["a"]) == NUM
        assert 0.5**halvings <= said["arrivals_per_s"] / (np.log(2) / 30) <= 1.0
        assert said["number"] == 1
        assert [name for name, _ in said["sends"]] == ["a"]
        assert get(router, "/counts?since=1").json["sends"] == []
        assert get(router, "/counts?since=x").status == 400


def test_one_knows_where_the_other_sent_a_prefix():
    long = body(num_words=200, max_tokens=1)
    with fakes(2) as servers, serving(servers) as one, serving(servers, peers=asking(one.url)) as other:
        post(one, long)
        hashes = read_asked(long).block_hashes
        assert soon(lambda: other.desk.view.index.match(hashes, 0.0)[0].any())
        seen = [list(each.desk.view.index.match(hashes, 0.0)[0]) for each in (one, other)]
        assert seen[0] == seen[1]


def test_what_a_router_that_is_gone_had_is_forgotten():
    with fakes(1, ttft_s=3600.0) as servers, ExitStack() as stack:
        one = stack.enter_context(serving(servers, drain_s=0.1))
        with serving(servers, peers=asking(one.url, max_age_s=2.0)) as other:
            asking_one = threading.Thread(target=lambda: post(one, body(max_tokens=1)))
            asking_one.start()
            assert soon(lambda: sum(in_flight(other)) == 1)
            stack.close()
            asking_one.join()
            assert soon(lambda: other.desk.num_peers == 0)
            assert sum(in_flight(other)) == 0
            servers[0].ttft_s = 0.0
            assert post(other, body(max_tokens=1)).status == 200


def test_a_peer_that_is_none_is_told_of_and_does_not_disturb(capsys):
    with FakeVllm() as server, serving([server], peers=asking(server.url)) as router:
        said = []
        assert soon(
            lambda: said.append(capsys.readouterr().err) or "peer_does_not_answer" in "".join(said)
        ), said
        assert router.desk.num_peers == 0
        assert post(router, body()).status == 200


WHOLE = {
    "router": "x",
    "instances": {"a": [1.0] * NUM, "z": []},
    "arrivals_per_s": 2.0,
    "sends": [],
    "number": 3,
}


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        {"instances": []},
        WHOLE | {"instances": {"a": None}},
        WHOLE | {"instances": {"a": [0.0] * (NUM - 1)}},
        WHOLE | {"instances": {"a": [0.0] * (NUM - 1) + [-1.0]}},
        WHOLE | {"instances": {"a": [0.0] * (NUM - 1) + [float("inf")]}},
        WHOLE | {"instances": {"a": [0.0] * (NUM - 1) + ["x"]}},
        WHOLE | {"arrivals_per_s": None},
        WHOLE | {"arrivals_per_s": float("nan")},
        WHOLE | {"sends": None},
        WHOLE | {"sends": [["a"]]},
        WHOLE | {"sends": [["a", "AAAA"]]},
        WHOLE | {"sends": [["a", "?"]]},
        WHOLE | {"sends": [["a", 5]]},
        WHOLE | {"sends": [["a", "A" * (12 * MAX_KEYS)]]},
        WHOLE | {"number": None},
        WHOLE | {"arrivals_per_s": 10**400},
        WHOLE | {"number": float("inf")},
    ],
)
def test_what_no_router_says_is_refused(said, desk):
    assert read(WHOLE, desk).counts.instances.tolist() == [[1.0] * NUM, *[[0.0] * NUM] * 3]
    with pytest.raises(ValueError, match=r"router says|expected|keys|could not|multiple"):
        read(said, desk)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"urls": ("host:8000",)}, "peers.urls has 'host:8000'; write it like http://host:8000"),
        ({"interval_s": 0.0}, "peers.interval_s"),
    ],
)
def test_settings_that_cannot_be(settings, what):
    with pytest.raises(ValueError, match=what):
        PeersSettings(**settings)


def test_an_answer_may_come_in_parts():
    """And a router that is told of itself hears that."""
    whole = json.dumps(WHOLE).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole)

    def answer(listening):
        with suppress(OSError):
            while True:
                with listening.accept()[0] as connection:
                    connection.recv(65536)
                    for part in (head, whole[:20], whole[20:]):
                        connection.sendall(part)
                        time.sleep(0.005)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with FakeVllm() as server, serving([server], peers=asking(url)) as router:
            assert soon(lambda: router.desk.num_peers == 1)
            assert in_flight(router)[0] == 1.0
        listening.shutdown(socket.SHUT_RDWR)


def test_a_router_is_not_its_own_peer(desk):
    with pytest.raises(ValueError, match=r"it is this router itself; leave it out of peers\.urls"):
        read(counts_of(desk, 0), desk)
