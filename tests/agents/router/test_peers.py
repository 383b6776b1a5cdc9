"""Routers that tell each other what they count."""

import threading
from contextlib import ExitStack

import numpy as np
import pytest

from agents.router.log import Log
from agents.router.peers import Peers, PeersSettings
from envs import observation as columns
from envs.cluster import Request
from envs.counts import COUNTED
from tests.agents.router.serving import body, get, post, posts, serving
from tests.agents.router.test_proxy import nothing_under_way
from tests.envs.live.fake_vllm import FakeVllm, fakes
from tests.envs.live.leaks import nothing_left, soon

QUICK = PeersSettings(urls=("http://127.0.0.1:1",), interval_s=0.01, max_age_s=0.3)


def asking(*urls, **settings):
    return PeersSettings(urls=urls, **{"interval_s": 0.01, "max_age_s": 0.3, **settings})


def in_flight(router):
    """As a policy of this router would see it."""
    view = router.desk.view
    return view.look(Request(10**9, 0.0, 16, 1), 0.0)["instances"][:, columns.NUM_IN_FLIGHT].tolist()


def test_one_sees_what_the_other_has_in_flight():
    with (
        nothing_left(),
        fakes(2, ttft_s=1.0) as servers,
        serving(servers) as one,
        serving(servers, peers=asking(one.url)) as other,
    ):
        assert soon(lambda: other.desk.num_peers == 1)
        asked = threading.Thread(target=lambda: posts(one, [body(max_tokens=1)] * 3))
        asked.start()
        assert soon(lambda: sum(in_flight(other)) == 3)
        assert in_flight(other) == in_flight(one)
        asked.join()
        assert soon(lambda: sum(in_flight(other)) == 0)
        assert nothing_under_way(one)


def test_counts_are_a_page():
    with FakeVllm() as server, serving([server]) as router:
        post(router, body(max_tokens=1))
        said = get(router, "/counts").json
        assert list(said["instances"]) == ["a"]
        assert len(said["instances"]["a"]) == len(COUNTED)
        assert said["arrivals_per_s"] == pytest.approx(np.log(2) / 30, rel=0.05)


def test_what_a_router_that_is_gone_had_is_forgotten():
    with fakes(1, ttft_s=1.0) as servers, ExitStack() as stack:
        one = stack.enter_context(serving(servers, drain_s=0.1))
        with serving(servers, peers=asking(one.url)) as other:
            asked = threading.Thread(target=lambda: post(one, body(max_tokens=1)))
            asked.start()
            assert soon(lambda: sum(in_flight(other)) == 1)
            stack.close()
            asked.join()
            assert soon(lambda: other.desk.num_peers == 0)
            assert sum(in_flight(other)) == 0
            assert post(other, body(max_tokens=1)).status == 200


def test_a_peer_that_is_none_is_told_of_and_does_not_disturb(capsys):
    with FakeVllm() as server, serving([server], peers=asking(server.url)) as router:
        said = []
        assert soon(
            lambda: said.append(capsys.readouterr().err) or "peer_does_not_answer" in "".join(said)
        ), said
        assert router.desk.num_peers == 0
        assert post(router, body()).status == 200


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        {"instances": []},
        {"instances": {"a": None}},
        {"instances": {"a": [0.0] * (len(COUNTED) - 1)}, "arrivals_per_s": 1.0},
        {"instances": {"a": [0.0] * (len(COUNTED) - 1) + [-1.0]}, "arrivals_per_s": 1.0},
        {"instances": {"a": [0.0] * (len(COUNTED) - 1) + [float("inf")]}, "arrivals_per_s": 1.0},
        {"instances": {"a": [0.0] * (len(COUNTED) - 1) + ["x"]}, "arrivals_per_s": 1.0},
        {"instances": {"a": [0.0] * len(COUNTED)}},
        {"instances": {"a": [0.0] * len(COUNTED)}, "arrivals_per_s": float("nan")},
    ],
)
def test_what_no_router_says_is_refused(said):
    with FakeVllm() as server, serving([server]) as router:
        peers = Peers(QUICK, router.desk, Log("none"))
        with pytest.raises(ValueError, match=r"not the counts of a router|numbers from 0 were expected"):
            peers._read(said)
        whole = {"instances": {"a": [1.0] * len(COUNTED), "stranger": []}, "arrivals_per_s": 2.0}
        counted = peers._read(whole)
        assert counted.instances[0].tolist() == [1.0] * len(COUNTED)
        assert counted.arrivals_per_s == 2.0


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
