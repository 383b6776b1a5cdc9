"""LiteLLM's plug without LiteLLM; integration/litellm_strategy.py runs its Router."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from agents.export.runtime import load
from agents.plugs.chooser import Chooser
from agents.plugs.litellm_strategy import OWN, Deployments, install, urls
from agents.plugs.prompt import of_body
from agents.plugs.view import Gauges

MODELS = [
    {"model_info": {"id": name}, "litellm_params": {"api_base": f"http://{name}/v1/"}}
    for name in ("a", "b", "c")
]
MESSAGES = [{"role": "user", "content": "x" * 4000}]


def usage(num_tokens):
    return SimpleNamespace(usage=SimpleNamespace(completion_tokens=num_tokens))


@pytest.fixture
def deployments(folders):
    return Deployments(Chooser(folders["network"], seed=0))


def test_it_chooses_what_the_bundle_chooses(folders):
    deployments = Deployments(Chooser(folders["network"], seed=0, clock=lambda: 0.0))
    bundle = load(folders["network"])
    bundle.reset(np.random.default_rng(0))
    rng = np.random.default_rng(3)
    for number in range(100):
        messages = [{"role": "user", "content": "x" * int(rng.integers(1, 9000))}]
        seen = deployments.chooser.view.look(of_body({"messages": messages}), ["a", "b", "c"], 0.0)
        chosen = deployments.choose(MODELS, messages, None, {})
        assert chosen is MODELS[bundle.act(seen).instance]
        deployments.chooser.scraped("abc"[number % 3], Gauges(float(rng.integers(30))), number + 1.0)


def test_a_call_from_its_start_to_its_end(deployments):
    request = {}
    name = deployments.choose(MODELS, MESSAGES, None, request)["model_info"]["id"]
    assert request["litellm_call_id"].startswith(OWN)
    known = deployments.chooser.view._instances[name]
    assert (known.num_in_flight, known.num_prefills) == (1, 1)
    details = {"litellm_call_id": request["litellm_call_id"], "stream": True, "completion_start_time": None}
    deployments.started(details)
    details["completion_start_time"] = datetime.now() - timedelta(seconds=0.0)
    deployments.choose(MODELS, MESSAGES, None, None)
    assert (known.num_in_flight, known.num_prefills) == (1, 0)
    deployments.ended(details, usage(50))
    assert known.num_in_flight == 0
    assert known.tokens.now(deployments.chooser.now_s()) == pytest.approx(1000 + 1 + 50, abs=1.0)
    assert deployments._waiting == {}


def test_each_attempt_is_a_request(deployments):
    request = {}
    deployments.choose(MODELS, MESSAGES, None, request)
    first = request["litellm_call_id"]
    deployments.choose(MODELS, MESSAGES, None, request)
    assert request["litellm_call_id"] != first
    deployments.ended({"litellm_call_id": first}, None)
    assert deployments.chooser.counters()["flights"] == 1
    named = {"litellm_call_id": "theirs"}
    deployments.choose(MODELS, MESSAGES, None, named)
    assert named == {"litellm_call_id": "theirs"}


def test_a_specific_deployment_is_counted(deployments):
    assert deployments.choose(MODELS[1], MESSAGES, None, {}) is MODELS[1]
    assert deployments.chooser.view.num_in_flight("b") == 1


def test_what_cannot_be(deployments):
    for messages in (None, 3, [], [None], [{"content": 3}]):
        for text in (None, 3, "a", ["a"]):
            assert deployments.choose(MODELS, messages, text, {"metadata": 3}) in MODELS
    for details in (None, 3, {}, {"litellm_call_id": []}):
        for response in (None, 3, {}, usage("many"), usage(None)):
            deployments.started(details)
            deployments.ended(details, response)
    assert deployments.chooser.counters()["decisions"] == 20


def test_where_the_servers_are():
    nowhere = {"model_info": {"id": "d"}, "litellm_params": {}}
    assert urls([*MODELS, nowhere]) == {"a": "http://a", "b": "http://b", "c": "http://c"}


def test_without_litellm():
    with pytest.raises(ImportError, match="pip install litellm"):
        install(None)
