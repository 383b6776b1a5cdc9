"""Gauges under current and former names, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.live.metrics import BadMetricsError, Metrics, cache_config, parse

CURRENT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b}c"} 3.0
vllm:num_requests_waiting{engine="0",model_name="a b}c"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a b}c",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="a b}c"} 0.25 1700000000000
vllm:prefix_cache_queries_total{engine="0",model_name="a b}c"} 1.024e+03
vllm:prefix_cache_queries_created{engine="0",model_name="a b}c"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="a b}c"} 512.0
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="512"} 1.0
process_resident_memory_bytes 6e+08
"""
FORMER = """\
vllm:num_requests_running{model_name="m"} 3
vllm:num_requests_waiting{model_name="m"} 2
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:gpu_prefix_cache_queries{model_name="m"} 1024
vllm:gpu_prefix_cache_hits{model_name="m"} 512
"""
EXPECTED = Metrics(2, 3, 0.25, 512.0, 1024.0)


@pytest.mark.parametrize("text", [CURRENT, FORMER, CURRENT.replace("\n", "\r\n")])
def test_names_of_all_versions(text):
    assert parse(text) == EXPECTED


def test_engines_are_added_up():
    second = CURRENT.replace('engine="0"', 'engine="1"').replace(" 0.25 ", " 0.75 ")
    assert parse(CURRENT + second) == Metrics(4, 6, 0.5, 1024.0, 2048.0)


def test_prefix_counters_may_be_missing():
    lines = [line for line in CURRENT.splitlines() if "prefix" not in line]
    assert parse("\n".join(lines)) == Metrics(2, 3, 0.25)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("} 3.0", "} NaN", "vllm:num_requests_running is nan"),
        ("} 3.0", "} -1.0", "vllm:num_requests_running is -1"),
        ("} 3.0", "} +Inf", "vllm:num_requests_running is inf"),
        ("} 3.0", "} 1e300", r"vllm:num_requests_running is 1e\+300"),
        ("} 3.0", "} many", "vllm:num_requests_running is 'many'"),
        ("} 3.0", "}", "vllm:num_requests_running is ''"),
        ("} 0.25", "} 1.5", "vllm:kv_cache_usage_perc is 1.5"),
        ("num_requests_waiting{", "other{", "vllm:num_requests_waiting is missing"),
        ("kv_cache_usage", "other", "vllm:kv_cache_usage_perc is missing"),
        ("} 512.0", "} 5120.0", "vllm:prefix_cache_hits_total is more than was queried"),
    ],
)
def test_what_cannot_be_is_refused_as_a_whole(old, new, reason):
    with pytest.raises(BadMetricsError, match=reason):
        parse(CURRENT.replace(old, new))


@given(st.text(), st.integers(0, len(CURRENT)))
def test_any_text_is_read_or_refused(junk, at):
    for text in (junk, CURRENT[:at] + junk, CURRENT[:at] + junk + CURRENT[at:]):
        try:
            metrics = parse(text)
        except BadMetricsError:
            continue
        assert 0.0 <= metrics.frac_kv_cache_usage <= 1.0
        assert min(metrics) >= 0


def test_cache_config():
    assert cache_config(CURRENT)["num_gpu_blocks"] == "512"
    assert cache_config(CURRENT)["enable_prefix_caching"] == "True"
    assert cache_config(FORMER) == {}
