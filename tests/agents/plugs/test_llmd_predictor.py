"""llm-d's predictor: the pod with the least pseudo-latency is the one that the bundle scores highest."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.export.runtime import load
from agents.plugs import llmd_predictor
from agents.plugs.collection import Collection
from agents.plugs.llmd_predictor import Predictor, PredictorServer, checked, observation
from agents.plugs.view import Profile
from envs.observation import INSTANCE_NAMES, observation_space

PREDICTION_FIELDS = {"ttft_ms", "tpot_ms", "predicted_at", "model_type", "objective_type", "quantile"}
PREDICTION_FIELDS |= {"last_model_load"}
"""Of types.go in llm-d-router ebab687 and prediction_server.py in llm-d-latency-predictor 04e44cd."""


def row(**changes):
    values = {
        "kv_cache_percentage": 0.25,
        "input_token_length": 1000,
        "num_request_waiting": 2,
        "num_request_running": 7,
        "num_tokens_generated": 0,
        "prefix_cache_score": 0.5,
        "encoder_input_size": 0,
        "encoder_matched_size": 0,
        "prefill_tokens_in_flight": 3000,
        "decode_tokens_in_flight": 9000,
    }
    return values | changes


def drawn(rng, num_tokens):
    return row(
        kv_cache_percentage=float(rng.random()),
        input_token_length=num_tokens,
        num_request_waiting=int(rng.integers(0, 20)),
        num_request_running=int(rng.integers(0, 60)),
        prefix_cache_score=float(rng.choice([0.0, 0.3, 1.0])),
        prefill_tokens_in_flight=int(rng.integers(0, 50_000)),
        decode_tokens_in_flight=int(rng.integers(0, 90_000)),
    )


@contextmanager
def served(predictor, collection=None):
    server = PredictorServer(predictor, collection)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    try:
        yield server, connection
    finally:
        connection.close()
        server.shutdown()
        thread.join()
        server.server_close()


def ask(connection, method, path, body=None):
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_what_the_policy_sees():
    seen = observation([checked(row(), 0), checked(row(prefix_cache_score=0.0), 1)], Profile())
    assert all(observation_space(2)[name].contains(values) for name, values in seen.items())
    first, second = (dict(zip(INSTANCE_NAMES, values.tolist(), strict=True)) for values in seen["instances"])
    assert first["num_waiting"] == first["num_in_flight_prefills"] == 2
    assert first["num_running"] == 7
    assert first["num_in_flight"] == 9
    assert first["frac_prefix_hit"] == 0.5
    assert first["num_uncached_tokens"] == 500
    assert first["num_in_flight_prefill_tokens"] == 3000
    assert (first["prefix_age_s"], second["prefix_age_s"]) == (0.0, 3600.0)
    assert second["num_uncached_tokens"] == 1000
    assert seen["request"].tolist() == [1000, 1, 0, 0, -1]


@pytest.mark.parametrize("name", ["network", "llmd_affinity", "least_in_flight"])
def test_the_least_latency_is_the_bundle_s_choice(folders, name):
    predictor, bundle = Predictor(folders[name]), load(folders[name])
    bundle.reset(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for number in range(200):
        rows = [checked(drawn(rng, 1000 + number), 0) for _ in range(int(rng.integers(1, 9)))]
        scores = bundle.act(observation(rows, Profile())).scores
        np.testing.assert_array_equal(predictor.scores(rows), scores)
        answers, best = np.array(predictor.ttft_ms(rows)), scores == scores.max()
        assert (answers[best] == 100_000).all()
        behind = scores.max() - scores[~best]
        expected = 100_000 + 100 * (behind + 0.02 * np.ptp(scores))
        np.testing.assert_allclose(answers[~best], expected, rtol=1e-12)
        for slo_ms, strategy in ((0.0, "least"), (1e9, "most")):
            assert ((epp := epp_scores(answers, slo_ms, strategy)) == epp.max()).tolist() == best.tolist()


def epp_scores(ttft_ms, slo_ms, strategy):
    """After scoreBucket of llm-d's latency-scorer (ebab687), TPOT equal for all, no pod idle."""
    headroom = slo_ms - ttft_ms
    if (headroom < 0).all():
        strategy = "least"
    distance = np.abs(headroom)
    share = (distance - distance.min()) / np.ptp(distance) if np.ptp(distance) > 1e-9 else distance * 0 + 0.5
    share = share if strategy == "most" else 1.0 - share
    return (np.floor(share * 100.0) + 1.0) / 100.0


def test_rows_of_several_requests_in_one_batch(folders):
    predictor, rng = Predictor(folders["network"]), np.random.default_rng(2)
    first = [checked(drawn(rng, 500), 0) for _ in range(70)]  # more than the policy takes at once
    second = [checked(drawn(rng, 900), 0) for _ in range(3)]
    mixed = [each for pair in zip(first[:3], second, strict=True) for each in pair] + first[3:]
    answers = predictor.ttft_ms(mixed)
    assert answers[1:6:2] == predictor.ttft_ms(second)
    assert answers[0:6:2] + answers[6:] == predictor.ttft_ms(first)


def test_the_contract(folders, tmp_path):
    collection = Collection(tmp_path / "rows")
    with served(Predictor(folders["network"]), collection) as (server, connection):
        status, content = ask(connection, "GET", "/status")
        said = json.loads(content)
        assert (status, said["is_ready"], said["model_type"], said["quantile"]) == (200, True, "xgboost", 0.9)
        assert said["training_server_url"] == server.url
        for path in ("/healthz", "/readyz", "/model/download/info"):
            assert ask(connection, "GET", path)[0] == 200
        status, content = ask(connection, "POST", "/predict/bulk/strict", {"requests": [row(), row()]})
        said = json.loads(content)
        assert status == 200
        assert said["total_requests"] == said["successful_predictions"] == 2
        assert said["failed_predictions"] == 0
        for prediction in said["predictions"]:
            assert prediction.keys() == PREDICTION_FIELDS
            assert datetime.fromisoformat(prediction["predicted_at"]).tzinfo is not None
        status, content = ask(connection, "POST", "/predict", row())
        assert (status, json.loads(content).keys()) == (200, PREDICTION_FIELDS)
        entry = row(actual_ttft_ms=120.5, actual_tpot_ms=9.0, timestamp="2026-08-22T10:00:00Z", pod_type="")
        status, content = ask(connection, "POST", "/add_training_data_bulk", {"entries": [entry] * 3})
        assert status == 202
        status, content = ask(connection, "GET", "/metrics")
        assert b"routegym_plug_rows_total 3\n" in content
        assert b"routegym_plug_training_rows_total 3\n" in content
    (part,) = collection.parts()
    assert [json.loads(line) for line in part.read_text().splitlines()] == [entry] * 3


BAD = [
    b"",
    b"{",
    b"[" * 100_000,
    b"[]",
    b'{"requests": []}',
    b'{"requests": 3}',
    b'{"requests": [3]}',
    json.dumps({"requests": [row(kv_cache_percentage=1.5)]}).encode(),
    json.dumps({"requests": [row(num_request_waiting=-1)]}).encode(),
    json.dumps({"requests": [row(num_request_waiting="3")]}).encode(),
    json.dumps({"requests": [row(num_request_waiting=True)]}).encode(),
    json.dumps({"requests": [row(prefix_cache_score=None)]}).encode(),
    json.dumps({"requests": [row(input_token_length=float("nan"))]}).encode(),
    json.dumps({"requests": [row(input_token_length=10**400)]}).encode(),
]


def test_requests_that_cannot_be(folders, tmp_path):
    collection = Collection(tmp_path)
    with served(Predictor(folders["network"]), collection) as (server, connection):
        for body in BAD:
            status, content = ask(connection, "POST", "/predict/bulk/strict", body)
            assert status == 422, body[:50]
            assert json.loads(content)["detail"]
        rows = {"entries": [row(actual_ttft_ms=1.0)]}  # without actual_tpot_ms
        assert ask(connection, "POST", "/add_training_data_bulk", rows)[0] == 422
        assert ask(connection, "GET", "/predict")[0] == 404
        assert ask(connection, "POST", "/nowhere", {})[0] == 404
        assert ask(connection, "POST", "/predict/bulk/strict", {"requests": [row()]})[0] == 200
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        assert connection.getresponse().status == 422
        assert server.counts["refused"] == len(BAD) + 2
    assert collection.parts() == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(row())) | st.text(), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(folders):
    with served(Predictor(folders["network"])) as (_, connection):
        yield connection


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(row())), value=anything, key=st.sampled_from(["requests", "entries"]))
def test_whatever_is_sent_is_answered(shared, name, value, key):
    path = {"requests": "/predict/bulk/strict", "entries": "/add_training_data_bulk"}[key]
    assert ask(shared, "POST", path, {key: [row(**{name: value})]})[0] in (200, 202, 422)
    assert ask(shared, "POST", path, {key: value})[0] == 422


def test_least_in_flight_where_the_policy_raises(folders, monkeypatch, caplog):
    predictor = Predictor(folders["network"])
    monkeypatch.setattr(predictor.policy, "act", lambda seen: 1 / 0)
    rows = [checked(row(num_request_waiting=waiting), 0) for waiting in (5, 1, 3)]
    for _ in range(2):
        assert np.argsort(predictor.ttft_ms(rows)).tolist() == [1, 2, 0]
    assert predictor.counts["fallback_least_in_flight"] == 2
    assert len(caplog.records) == 1
    too_long = [checked(row(input_token_length=10**9), 0)]
    assert predictor.ttft_ms(too_long) == [100_000]


def test_a_collection_is_bounded(tmp_path):
    for first in (0, 40):  # and goes on after a restart
        collection = Collection(tmp_path, rows_per_part=4, max_parts=3)
        for number in range(first, first + 40, 2):
            collection.add([{"number": number}, {"number": number + 1}])
    collection.add([{"number": number} for number in range(80, 90)])
    parts = collection.parts()
    assert len(parts) == 3
    kept = [json.loads(line)["number"] for part in parts for line in part.read_text().splitlines()]
    assert kept == list(range(80, 90))


def test_settings_that_cannot_be(folders, tmp_path):
    with pytest.raises(ValueError, match="scale_ms"):
        Predictor(folders["network"], scale_ms=0.0)
    with pytest.raises(ValueError, match="it may have prefill"):
        Predictor(folders["network"], {"speed": 1})
    with pytest.raises(ValueError, match="rows_per_part"):
        Collection(tmp_path, rows_per_part=0)


def test_a_disk_that_is_full(folders, tmp_path, monkeypatch):
    collection = Collection(tmp_path)
    monkeypatch.setattr(collection, "add", lambda rows: (_ for _ in ()).throw(OSError(28, "No space left")))
    with served(Predictor(folders["network"]), collection) as (server, connection):
        entries = {"entries": [row(actual_ttft_ms=1.0, actual_tpot_ms=1.0)]}
        assert ask(connection, "POST", "/add_training_data_bulk", entries)[0] == 500
        connection.close()
        assert ask(connection, "POST", "/predict/bulk/strict", {"requests": [row()]})[0] == 200
        assert server.counts["failed"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_as_a_process(folders, tmp_path, number):
    command = [
        sys.executable,
        "-m",
        "plugs.llmd_predictor",
        "--port",
        "0",
        "--collect",
        str(tmp_path / "rows"),
    ]
    command += ["--profile", '{"decode_step_s": 0.01}', "--max-parts", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        command,
        cwd=folders["network"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        assert ask(connection, "POST", "/predict/bulk/strict", {"requests": [row()] * 3})[0] == 200
        entries = {"entries": [row(actual_ttft_ms=1.0, actual_tpot_ms=1.0)]}
        assert ask(connection, "POST", "/add_training_data_bulk", entries)[0] == 202
        connection.close()
        assert len(list((tmp_path / "rows").glob("PART-*.jsonl"))) == 1
    finally:
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "ended\n"), errors


def test_it_says_what_it_cannot_do():
    assert "What cannot be expressed" in llmd_predictor.__doc__
