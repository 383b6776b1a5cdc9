"""The emulated twin is as large as the servers say, and as fast as the profiles that are named for them."""

from dataclasses import replace

import pytest

from envs.cluster import Request
from envs.emulator.disturbed import DisturbedCluster
from envs.emulator.profile import load, save
from envs.live import fleet, twin
from envs.world import World

from .fake_vllm import FakeVllm, fakes

PROFILE = "h100_llama-3.1-8b"
REQUEST = Request(0, 0.0, 100, 5)


@pytest.fixture
def server():
    with FakeVllm() as server:
        yield server


@pytest.fixture
def endpoints():
    with fakes(2) as servers:
        urls = [server.url for server in servers]
        yield {name: {"url": url, "profile": PROFILE} for name, url in zip("ab", urls, strict=True)}


def test_it_has_the_live_clusters_traits(endpoints):
    live, emulated = fleet.cluster(endpoints), twin.cluster(endpoints)
    assert type(emulated).__name__ == "EmulatedCluster"
    assert [replace(traits, name="") for traits in emulated.traits] == [
        replace(traits, name="") for traits in live.traits
    ]
    assert emulated.traits[0].num_blocks == 511  # the null block is nobody's
    assert all(config.async_scheduling for config in emulated.configs)
    endpoints["a"]["async_scheduling"] = False
    assert [config.async_scheduling for config in twin.cluster(endpoints).configs] == [False, True]


def test_what_a_request_has_beside_its_steps_is_spent_on_the_way(server, tmp_path):
    measured = replace(load(PROFILE), name="measured", request_overhead_s=0.02)
    save(measured, tmp_path / "measured.json")
    assert load(tmp_path / "measured.json") == measured
    endpoint = {"url": server.url, "profile": PROFILE}
    clusters = [
        twin.cluster({"a": endpoint}),
        twin.cluster({"a": endpoint | {"profile": str(tmp_path / "measured.json")}}),
    ]
    ttfts_s = []
    for cluster in clusters:
        cluster.submit(REQUEST, 0)
        ttfts_s.append(cluster.drain().completions[0].ttft_s)
    assert ttfts_s[1] - ttfts_s[0] == pytest.approx(0.02)


def test_a_world_brings_its_own_delay(server, tmp_path):
    save(replace(load(PROFILE), request_overhead_s=0.02), tmp_path / "measured.json")
    endpoints = {"a": {"url": server.url, "profile": str(tmp_path / "measured.json")}}
    world = World(network_delay_s=0.5)
    for given, delay_s in ((None, [0.01]), (World(), [0.01]), (world, 0.5)):
        cluster = twin.cluster(endpoints, world=given)
        assert isinstance(cluster, DisturbedCluster)
        assert cluster.world.network_delay_s == delay_s


def test_without_a_profile_it_cannot_be(server):
    with pytest.raises(ValueError, match=r"endpoint 'a' .* its twin needs a profile; .* url=http://127"):
        twin.cluster({"a": server.url})


def test_an_overhead_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"request_overhead_s: -1\.0 is not a finite number"):
        replace(load(PROFILE), request_overhead_s=-1.0)
