"""What a plug reads off /metrics: as envs.live.metrics does; and a scraper that bears what servers do."""

import time

import pytest

from agents.plugs.metrics import Scraper, parse
from envs.live import metrics as theirs
from tests.envs.live.fake_vllm import METRICS, FakeVllm

TEXT = METRICS.format(running="3.0", waiting="2.0", usage="0.25", queries="200.0", hits="50.0")


def test_the_gauges():
    gauges = parse(TEXT)
    assert gauges == (2.0, 3.0, 0.25, 0.25)
    expected = theirs.parse(TEXT)
    assert gauges[:3] == expected[:3]
    assert gauges.frac_prefix_hits == expected.num_hit_tokens / expected.num_queried_tokens


def test_former_names_and_several_engines():
    text = TEXT.replace("kv_cache_usage", "gpu_cache_usage").replace("prefix_cache", "gpu_prefix_cache")
    assert parse(text) == parse(TEXT)
    both = parse(TEXT + TEXT.replace('engine="0"', 'engine="1"').replace("0.25", "0.75"))
    assert both == (4.0, 6.0, 0.5, 0.25)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        TEXT.replace("3.0", "NaN"),
        TEXT.replace("3.0", "-3"),
        TEXT.replace("3.0", ""),
        TEXT.replace("3.0", "Infinity"),
        TEXT.replace("0.25", "1.25"),
        TEXT.replace("50.0", "500.0"),
        TEXT.replace("num_requests_running", "other"),
    ],
)
def test_metrics_that_cannot_be(text):
    with pytest.raises(ValueError, match=r"missing|must be|of 200 tokens|KV cache"):
        parse(text)


def await_true(condition, limit_s=5.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_scraper():
    seen = {}
    with FakeVllm() as good, FakeVllm(metrics_status=500) as bad:
        urls = {"good": good.url, "bad": bad.url, "nobody": "http://127.0.0.1:1", "wrong": "no url"}
        scraper = Scraper(lambda: urls, seen.__setitem__, interval_s=0.02)
        await_true(lambda: seen and scraper.num_failures >= 6)
        good.metrics = {"waiting": "7.0"}
        await_true(lambda: seen["good"].num_waiting == 7.0)
        scraper.stop()
        num_scrapes = good.num_scrapes
        time.sleep(0.1)
        assert good.num_scrapes == num_scrapes
    assert seen.keys() == {"good"}


def test_a_scraper_outlives_its_host_s_mistakes():
    def urls():
        raise RuntimeError("not yet")

    scraper = Scraper(urls, lambda name, gauges: None, interval_s=0.01)
    await_true(lambda: scraper.num_failures > 2)
    scraper.stop()
    with pytest.raises(ValueError, match="interval_s"):
        Scraper(urls, lambda name, gauges: None, interval_s=0.0)
