"""What a calibration makes of its measurements, and what it refuses; on servers: test_calibrate_live.py."""

import re
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web

from envs.emulator.profile import load
from envs.emulator.step_time import StepTimeLaw, attended_pairs, step_time_s
from envs.live import calibrate, sweep
from envs.live.calibrate import Options, main, parse
from envs.live.sweep import CalibrationError, Pace, Shape, _pace, _while_all_decode

from .fake_vllm import FakeVllm

PROFILE = load("h100_llama-3.1-8b")
OVERHEAD_S, OVERHEAD_TOKEN_S = 0.004, 2e-6


def measured(law, time_scale=1.0, noise=0.0):
    """Shapes as they would be measured of a server that follows a law."""
    rng = np.random.default_rng(3)
    shapes = calibrate._shapes(PROFILE, 131072)

    def told(seconds):
        return time_scale * seconds * (1 + noise * rng.standard_normal())

    for shape in shapes:
        size, context = (1, shape.num_prompt_tokens) if shape.kind == "prefill" else (shape.x, shape.x)
        context = shape.num_prompt_tokens + 4.5
        for _ in range(5):
            shape.paces.append(Pace(told(step_time_s(law, 0, 0, size, size * context)), context))
            if shape.kind == "prefill":
                overhead_s = OVERHEAD_S + OVERHEAD_TOKEN_S * shape.num_prompt_tokens
                pairs = attended_pairs(shape.x, shape.num_context_tokens)
                new_s = step_time_s(law, shape.x, pairs, 0, 0) + overhead_s
                cached_s = step_time_s(law, 0, 0, 1, shape.num_prompt_tokens) + overhead_s
                shape.ttfts_s.append((told(new_s), told(cached_s)))
    return shapes


@pytest.mark.parametrize("time_scale", [1.0, 10.0])
def test_a_law_is_found_again(time_scale):
    calibration = calibrate._fitted(PROFILE, measured(PROFILE.law, time_scale), time_scale)
    assert calibration.profile.worst_error < 0.003
    assert calibration.overhead_s == pytest.approx(OVERHEAD_S, rel=0.02)
    assert calibration.overhead_token_s == pytest.approx(OVERHEAD_TOKEN_S, rel=0.02)
    assert calibration.network_delay_s == pytest.approx(0.003, rel=0.02)
    for counts in [
        (100, 5050, 0, 0),
        (3000, 4501500, 0, 0),
        (0, 0, 1, 500),
        (0, 0, 40, 40000),
        (500, 1e6, 20, 9000),
    ]:
        assert step_time_s(calibration.profile.law, *counts) == pytest.approx(
            step_time_s(PROFILE.law, *counts), rel=0.01
        )


def test_noise_is_told_and_its_median_counts():
    calibration = calibrate._fitted(PROFILE, measured(PROFILE.law, noise=0.05), 1.0)
    assert 0.003 < calibration.profile.worst_error < 0.15
    assert step_time_s(calibration.profile.law, 0, 0, 16, 16000) == pytest.approx(
        step_time_s(PROFILE.law, 0, 0, 16, 16000), rel=0.05
    )


def test_a_step_of_many_tokens_takes_no_less_than_one_of_a_single_token():
    shapes = measured(StepTimeLaw(0.002, 0.0, 0.0, 0.0, 0.0, 0.0))
    for shape in shapes:
        shape.ttfts_s = [(new_s - 0.0015, cached_s) for new_s, cached_s in shape.ttfts_s]
    fit_error = calibrate._fitted(PROFILE, shapes, 1.0).profile.fit_error
    assert {row.measured_ms for row in fit_error} == {2.0}


def test_steps_without_time_are_named():
    shapes = measured(PROFILE.law)
    shapes[-1].paces.clear()
    calibration = calibrate._fitted(PROFILE, shapes, 1.0)
    assert calibration.left_out == ("decode 64+1024",)
    assert "not measured: decode 64+1024" in calibration.profile.source
    assert "no time was left for decode 64+1024" in calibrate.table(calibration)


def test_without_prefix_caching_nothing_is_made_up():
    with pytest.raises(CalibrationError, match="start the server with prefix caching"):
        calibrate._fitted(PROFILE, [Shape("prefill", 17, 0)], 1.0)


def test_shapes_fit_the_server():
    small = replace(PROFILE, max_num_batched_tokens=1024, max_num_seqs=16, num_blocks=300)
    shapes = calibrate._shapes(small, 2048)
    assert {shape.x for shape in shapes if shape.kind == "decode"} == {4}
    for shape in shapes:
        assert shape.num_prompt_tokens + 64 < 2048
        if shape.kind == "prefill":
            assert shape.x <= 1024
            assert shape.num_prompt_tokens % 16 == 1
    with pytest.raises(CalibrationError, match="too small to be measured"):
        calibrate._shapes(replace(PROFILE, num_blocks=4), 64)


def test_an_answers_pace_is_that_while_all_decode():
    first = [(1.0, 1), (1.5, 3), (2.0, 4), (2.3, 6)]
    second = [(1.4, 1), (2.4, 9)]
    rows = _while_all_decode([first, second])
    assert rows == [first[1:], second]
    step_s, num_context = _pace(rows[0], 100)
    assert step_s == pytest.approx(0.8 / 3)
    assert num_context == pytest.approx(np.mean([103, 104, 105]))


def test_words_become_options():
    options = parse(["url=http://a:1", "time_scale=10", "max_num_seqs=8", "like=a100_llama-3.1-8b"])
    assert options == Options("http://a:1", time_scale=10.0, max_num_seqs=8, like="a100_llama-3.1-8b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "url is missing"),
        (["url=http://127.0.0.1:9", "port=1"], "unknown port; there are url, output"),
        (["url=http://127.0.0.1:9", "time_scale=slow"], "time_scale is 'slow', it must be a number"),
        (["url=http://127.0.0.1:9", "time_scale=0"], "time_scale is 0.0"),
        (["url=http://127.0.0.1:9", "max_num_seqs=0"], "max_num_seqs is 0"),
        (["url=http://127.0.0.1:9", "url=http://a"], "url is said twice"),
        (["url"], "'url' is no KEY=VALUE"),
        (["url=127.0.0.1:9"], "write it like http://host:8000"),
        (["url=http://127.0.0.1:9", "output=nowhere/a.json"], "output is nowhere/a.json: there is no such"),
        (["url=http://127.0.0.1:9", "like=h1"], "unknown profile 'h1'"),
        (["url=http://127.0.0.1:9", "api_key_env=NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["url=http://127.0.0.1:9"], "does not answer as it should .* see that it runs and that the url"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(message, errors), errors
    assert list(tmp_path.iterdir()) == []


# --- servers that are not as they should be ---


@pytest.fixture
def fake():
    with FakeVllm() as server:
        yield server


def test_a_server_that_finds_nothing_cached_is_refused(fake):
    with pytest.raises(CalibrationError, match="start the server with prefix caching"):
        calibrate.calibrate(Options(fake.url, time_limit_s=1))
    assert fake.num_running == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "http 500 to a request for tokens"),
        ("cut", r"does not answer as it should \(ClientPayloadError"),
        ("not_sse", r"does not answer as it should \(MalformedStreamError"),
        ("error_in_stream", r"does not answer as it should \(ErrorInStreamError"),
        ("no_tokens", "an answer without tokens"),
    ],
)
def test_what_breaks_while_it_is_measured_is_told(fake, fault, message):
    fake.faults = [""] * 8  # the warm-up, and something of the first round
    fake.fault = fault
    with pytest.raises(CalibrationError, match=rf"endpoint 'measured' \({fake.url}\).*{message}"):
        calibrate.calibrate(Options(fake.url))


def test_a_pace_is_measured_for_a_fifth_of_a_second():
    assert sweep.num_steps_of(0.01) == 20
    assert sweep.num_steps_of(1.0) == sweep.MIN_STEPS
    assert sweep.num_steps_of(1e-6) == sweep.MAX_STEPS
    assert sweep.num_steps_of(0.0) == sweep.MAX_STEPS  # a busy machine read all tokens at once


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"metrics": {"running": "2.0"}}, {}, r"is busy \(2 requests running, 0 waiting\)"),
        ({"metrics": {"usage": "nan"}}, {}, "/metrics cannot be used: vllm:kv_cache_usage_perc is nan"),
        ({"metrics_status": 500}, {}, "http 500 to /metrics"),
        ({"api_key": "secret"}, {}, "http 401 to /v1/models"),
        ({}, {"model": "large"}, "serves tiny, not large"),
        ({}, {"max_num_batched_tokens": 16}, "too small to be measured"),
    ],
)
def test_a_server_that_cannot_be_measured_is_told_at_once(fake, changes, options, message):
    for name, value in changes.items():
        setattr(fake, name, value)
    with pytest.raises(CalibrationError, match=message):
        calibrate.calibrate(Options(fake.url, **options))
    assert not any(len(body["prompt"]) > 16 for body in fake.bodies)


@pytest.mark.parametrize(
    "said",
    [
        "[1]",
        "{}",
        '{"data": []}',
        '{"data": [1]}',
        '{"data": [{"id": 1}]}',
        "<html>hello</html>",
        b"\xff\xfe",
    ],
)
def test_what_is_no_vllm_is_told_in_one_line(said, monkeypatch, capsys):
    async def models(self, request):
        return web.Response(body=said, content_type="text/html")

    monkeypatch.setattr(FakeVllm, "_models", models)
    with FakeVllm() as other, pytest.raises(SystemExit):
        main([f"url={other.url}"])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert (
        f"({other.url}): /v1/models lists no model; is it the url of an OpenAI-compatible server?" in errors
    )


def test_a_port_that_hangs_is_told_soon(monkeypatch):
    assert sweep.ASK_TIMEOUT_S <= 5
    monkeypatch.setattr(sweep, "ASK_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began_at_s = time.monotonic()
        with pytest.raises(CalibrationError, match=r"no answer to /v1/models within 0.2 s"):
            calibrate.calibrate(Options(url))
    assert time.monotonic() - began_at_s < 60


def test_the_api_key_is_sent_and_not_told(fake, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    fake.api_key = "secret"
    with pytest.raises(CalibrationError, match="prefix caching") as raised:
        calibrate.calibrate(Options(fake.url, api_key_env="MY_KEY", time_limit_s=0.5))
    assert all(headers["Authorization"] == "Bearer secret" for headers in fake.headers)
    assert "secret" not in str(raised.value)
