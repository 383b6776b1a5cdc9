"""Ray Serve's plug, with a stand-in for its base class; integration/ray_serve.py runs Ray."""

import asyncio
import importlib
import pickle
import sys
from concurrent.futures import Future
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from agents.export.runtime import load
from agents.plugs import ray_serve
from agents.plugs.prompt import Prompt, of_body, session_key
from agents.plugs.ray_serve import gauges_of, prompt_of, routing_stats
from tests.agents.plugs.test_metrics import TEXT

NAMES = ["a", "b", "c"]


class Gauge:
    values: ClassVar[dict[str, int]] = {}

    def __init__(self, name, description, tag_keys):
        assert (name, tag_keys) == ("routegym_plug", ("counter",))

    def set(self, value, tags):
        Gauge.values[tags["counter"]] = value


@pytest.fixture
def router_class(monkeypatch):
    """The class, made of a base of nothing."""
    modules = {
        name: ModuleType(name) for name in ("ray", "ray.serve", "ray.serve.request_router", "ray.util")
    }
    modules["ray.serve.request_router"].RequestRouter = type("RequestRouter", (), {})
    modules["ray.util"].metrics = SimpleNamespace(Gauge=Gauge)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield ray_serve.BundleRequestRouter
    del ray_serve.__dict__["BundleRequestRouter"]


@pytest.fixture
def router(router_class, folders):
    made = router_class()
    made.initialize_state(bundle=str(folders["network"]), seed=0)
    return made


def replica(name, stats=None):
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats=stats or {})


def pending(request_id, *arguments, session_id="", **named):
    metadata = SimpleNamespace(internal_request_id=request_id, session_id=session_id)
    return SimpleNamespace(args=list(arguments), kwargs=named, metadata=metadata, future=Future())


def choose(router, replicas, request):
    return asyncio.run(router.choose_replicas(replicas, request))


def test_it_ranks_as_the_bundle_decides(router, folders):
    router.chooser._clock = lambda: router.chooser._start_s
    bundle, rng = load(folders["network"]), np.random.default_rng(3)
    bundle.reset(np.random.default_rng(0))
    replicas = [replica(name) for name in NAMES]
    for number in range(100):
        body = {"prompt": "x" * int(rng.integers(1, 9000))}
        decision = bundle.act(router.chooser.view.look(of_body(body), NAMES, 0.0))
        ranks = choose(router, replicas, pending(number, body))
        assert [len(rank) for rank in ranks] == [1, 1, 1]
        assert ranks[0][0] is replicas[decision.instance]
        router.on_request_completed(ranks[0][0].replica_id, number)
    assert router.chooser.counters()["flights"] == 0


def test_what_replicas_say_of_themselves(router):
    stats = routing_stats(TEXT)
    assert gauges_of(stats) == (2.0, 3.0, 0.25, 0.25)
    replicas = [replica("a", stats), replica("b", {"num_waiting": "many"}), replica("c")]
    choose(router, replicas, pending("one", "text"))
    known = router.chooser.view._instances
    assert known["a"].gauges == (2.0, 3.0, 0.25, 0.25)
    assert known["b"].gauges == known["c"].gauges == (0.0, 0.0, 0.0, 0.0)
    assert router.chooser.counters()["event_ValueError"] == 1
    scraped_at_s = known["a"].scraped_at_s
    choose(router, replicas, pending("two", "text"))  # no news: the snapshot ages
    assert known["a"].scraped_at_s == scraped_at_s
    choose(router, [replica("a", {**stats, "recorded_at_s": 1.0})], pending("three", "text"))
    assert known["a"].scraped_at_s > scraped_at_s


def test_a_replica_that_was_full(router):
    request = pending("one", {"prompt": "x" * 4000})
    first = choose(router, [replica(name) for name in NAMES], request)[0][0].replica_id.unique_id
    other = next(name for name in NAMES if name != first)
    router.on_request_routed(request, SimpleNamespace(unique_id=other), None)
    assert router.chooser.view.num_in_flight(first) == 0
    assert router.chooser.view._instances[other].num_prefill_tokens == 1000
    router.on_request_completed(SimpleNamespace(unique_id=other), "one")
    assert router.chooser.view.num_in_flight(other) == 0


def test_a_request_that_is_cancelled_while_it_waits(router):
    cancelled, routed = pending("one", "text"), pending("two", "text")
    for _ in range(3):  # asked again while all are full
        choose(router, [replica("a")], cancelled)
        choose(router, [replica("a")], routed)
    routed.future.set_result(None)
    assert router.chooser.view.num_in_flight("a") == 2
    cancelled.future.cancel()
    assert router.chooser.view.num_in_flight("a") == 1


def test_no_replicas_and_no_request(router):
    assert choose(router, [], pending("one", "text")) == []
    assert len(choose(router, [replica("a")], None)) == 1
    assert router.chooser.counters()["flights"] == 0


def test_the_request_among_the_arguments():
    chat = [{"role": "user", "content": "x" * 400}]
    message = SimpleNamespace(model_dump=lambda: chat[0])
    expected = of_body({"messages": chat})
    assert prompt_of(pending(1, {"messages": chat})) == expected
    assert prompt_of(pending(1, 3, body={"messages": chat})) == expected
    assert prompt_of(pending(1, SimpleNamespace(messages=chat))) == expected
    assert prompt_of(pending(1, SimpleNamespace(messages=[message]))) == expected
    assert prompt_of(pending(1, "x" * 400)).num_prompt_tokens == 100
    assert prompt_of(pending(1, b"scope")).num_prompt_tokens == 1
    assert prompt_of(pending(1, "a", session_id="s")).session_key == session_key("s")
    assert prompt_of(None) == Prompt(1)


def test_arguments_that_cannot_be_read(router):
    class Broken:
        @property
        def messages(self):
            raise RuntimeError("not now")

    assert choose(router, [replica("a")], pending("one", Broken()))
    assert router.chooser.counters()["prompt_RuntimeError"] == 1


def test_its_counters_are_published(router, monkeypatch):
    monkeypatch.setattr(ray_serve, "PUBLISH_INTERVAL_S", 0.0)
    choose(router, [replica("a")], pending("one", "text"))
    assert Gauge.values["decisions"] == 1


def test_it_is_pickled_by_name(router_class):
    assert pickle.loads(pickle.dumps(router_class)) is router_class


def test_without_ray():
    with pytest.raises(ImportError, match=r"pip install 'ray\[serve\]'"):
        _ = ray_serve.BundleRequestRouter
    with pytest.raises(AttributeError):
        _ = importlib.import_module("agents.plugs.ray_serve").Nothing
