"""What a router recorded is what it decided, and what off-policy evaluation can read."""

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from agents.config import register
from agents.heuristics.random import Random
from agents.ope.__main__ import evaluate
from agents.ope.logged import read
from agents.router.tape import TapeSettings
from envs.live.recorder import Recorder
from envs.live.recording import Recording, matrix
from tests.agents.router.serving import SETTINGS, body, posts, serving
from tests.envs.live.fake_vllm import fakes
from tests.envs.live.leaks import soon


def test_each_decision_and_its_outcome_are_recorded(tmp_path):
    with (
        fakes(2) as servers,
        serving(servers, None, Random(), tape=TapeSettings(str(tmp_path / "tape"))) as router,
    ):
        servers[0].faults = ["", "503", "refuse_stream"]
        posts(router, [body(max_tokens=3)] * 40)
        posts(router, [body(max_tokens=3, stream=False)] * 4)
        assert soon(lambda: router.proxy.num_in_flight == 0)
        num_retries = router.proxy.counts["num_retries"]
        counts = [len(server.bodies) for server in servers]
    recording = Recording(tmp_path / "tape")
    decisions, outcomes = recording.decisions(), recording.outcomes()
    assert len(decisions) == len(outcomes) == 44 + num_retries
    np.testing.assert_array_equal(decisions["decision_id"], outcomes["decision_id"])
    np.testing.assert_array_equal(decisions["instance"], outcomes["instance"])
    assert np.bincount(decisions["instance"]).tolist() == counts
    propensities = matrix(decisions, "propensities", SETTINGS.max_instances)
    np.testing.assert_allclose(propensities.sum(axis=1), 1.0)
    assert (np.asarray(outcomes["propensity"]) > 0).all()
    failed = np.asarray(outcomes["failure"].to_pylist()) != ""
    assert failed.sum() == num_retries == np.asarray(outcomes["is_retried"]).sum()
    served = ~failed
    assert (np.asarray(outcomes["ttft_s"])[served] > 0).all()
    assert (np.asarray(outcomes["e2e_s"])[served] >= np.asarray(outcomes["ttft_s"])[served]).all()


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("odd"), UnicodeError("surrogates")])
def test_what_cannot_be_recorded_is_told_and_the_router_goes_on(error, tmp_path, monkeypatch, capsys):
    def raises(*_):
        raise error

    monkeypatch.setattr(Recorder, "decided", raises)
    with fakes(1) as servers, serving(servers, tape=TapeSettings(str(tmp_path / "tape"))) as router:
        posts(router, [body(max_tokens=1)])
        assert soon(lambda: router.desk.tape.is_broken)
        (answer,) = posts(router, [body(max_tokens=1)])
        assert answer.status == 200
        assert router.desk.tape.num_dropped == 1
    assert f'"not_recorded", "reason": "{error}"' in capsys.readouterr().err


def test_other_policies_are_evaluated_on_it(tmp_path):
    with (
        fakes(3) as servers,
        serving(servers, None, Random(), tape=TapeSettings(str(tmp_path / "t"))) as router,
    ):
        for _ in range(10):
            posts(router, [body(max_tokens=1)] * 12)
    register()
    with initialize_config_module("conf", version_base="1.3"):
        overrides = [f"recording={tmp_path / 't'}", f"directory={tmp_path / 'ope'}"]
        overrides.append("+agent@policies.least_in_flight=least_in_flight")
        told = evaluate(compose("ope", overrides))
    assert told["num_decisions"] == 120
    assert told["policies"]["least_in_flight"]["dr"]["value"] > 0


def test_what_could_be_tried_nowhere_else_has_failed(tmp_path):
    """And is no attempt before another one, or its cost would be left out of every estimate."""
    with (
        fakes(1) as servers,
        serving(servers, None, Random(), tape=TapeSettings(str(tmp_path / "tape"))) as router,
    ):
        servers[0].faults = ["", "503", ""]
        statuses = [posts(router, [body(max_tokens=1)])[0].status for _ in range(3)]
        assert statuses == [200, 502, 200]
        assert router.proxy.counts["num_retries"] == 0
    logged = read([tmp_path / "tape"], "ttft_s", 60.0)
    assert len(logged.known) == 3
    assert (logged.cost == 60.0).tolist() == [False, True, False]


def test_attempts_of_one_request_are_one_request(tmp_path):
    """What a retry cost is what the first attempt cost too, so that none is left out for having failed."""
    with (
        fakes(2) as servers,
        serving(servers, None, Random(), tape=TapeSettings(str(tmp_path / "tape"))) as router,
    ):
        servers[0].fault = "503"
        posts(router, [body(max_tokens=1)] * 20)
        assert soon(lambda: router.proxy.num_in_flight == 0)
        num_retries = router.proxy.counts["num_retries"]
    assert num_retries > 0
    logged = read([tmp_path / "tape"], "ttft_s", None)
    assert len(logged) == 20 + num_retries
    assert len(logged.known) == len(logged)
    assert len(set(Recording(tmp_path / "tape").decisions()["request_id"].to_pylist())) == 20
