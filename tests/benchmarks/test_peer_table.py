import sys

import pytest

from tests.benchmarks.bench_peers import run
from tests.benchmarks.peer_table import HEAD, Row, bars, markdown, ratios
from tests.benchmarks.peers.outcome import spread


def outcome(simulate_s, num_requests=1000, **changes):
    one = {
        "num_requests": num_requests,
        "num_output_tokens": 200 * num_requests,
        "simulate_s": simulate_s,
        "whole_s": simulate_s + 1.0,
        "simulated_s": 25.0,
        "peak_rss_mib": 100.0,
        "ttft_s": {"mean": 0.08, "p50": 0.07, "p99": 0.2},
        "tpot_s": {"mean": 0.018, "p50": 0.017, "p99": 0.03},
    }
    return one | changes


def rows(ours_s, **others_s):
    peers = [Row(name, name, "a model", [outcome(one_s)]) for name, one_s in others_s.items()]
    return [Row("bare", "ours", "steps", [outcome(ours_s, 100_000)]), *peers]


def test_best_median_and_worst():
    row = Row("bare", "ours", "steps", [outcome(0.5), outcome(0.25), outcome(1.0, peak_rss_mib=150.0)])
    assert row.rates == [4000.0, 2000.0, 1000.0]
    assert row.cells == (
        "ours",
        "1,000",
        "4,000",
        "2,000 [1,000]",
        "800,000",
        "800",  # 1,000 requests in 1.25 s
        "150",
        "25.0",
        "80.0, 70.0, 200.0",
        "18.0, 17.0, 30.0",
    )


def test_peer_that_failed_is_a_row_with_its_reason():
    table = markdown([*rows(1.0), Row("vidur", "Vidur", "kernels", failure="install: no such version")])
    lines = table.splitlines()
    assert {line.count("|") for line in lines[:4]} == {len(HEAD) + 1}
    assert "| Vidur | did not run: install: no such version |" in table
    assert "- Vidur: kernels" in lines
    later = markdown([Row("bare", "ours", "steps", [outcome(1.0)], failure="killed")])
    assert "| ours | 1,000 |" in later
    assert later.endswith("- ours: steps (a later run failed: killed)")


def test_process_that_fails_says_its_last_line():
    assert run([sys.executable, "-c", "print('kept')"], 60) == ("", "kept\n")
    program = "import sys; print('noise', file=sys.stderr); sys.exit('no such profile')"
    assert run([sys.executable, "-c", program], 60) == ("no such profile", "")
    assert run([sys.executable, "-c", "raise SystemExit(3)"], 60) == ("status 3", "")
    assert "timed out" in run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)[0]
    assert "No such file" in run(["/nowhere/python"], 60)[0]


def test_ratios_compare_the_best_runs():
    measured = ratios(rows(1.0, fleet_sim=10.0, dynamo_kv_router=0.5))
    assert measured == {"fleet_sim": pytest.approx(1000.0), "dynamo_kv_router": pytest.approx(50.0)}
    assert ratios([Row("bare", "ours", "steps", failure="killed")]) == {}


def test_blocks_of_another_size_are_compared_with_ours_of_that_size():
    wide = Row("bare_64", "ours", "steps", [outcome(0.25, 100_000)])
    measured = ratios([*rows(1.0, dynamo_kv_router_64=0.5), wide])
    assert measured == {"dynamo_kv_router_64": pytest.approx(200.0)}
    assert ratios(rows(1.0, dynamo_kv_router_64=0.5)) == {}


def test_bars_are_met_missed_or_not_measured():
    like = [Row(name, "ours", "steps", [outcome(1.0, 100_000)]) for name in ("bare_unhashed", "bare_64")]
    checked = bars([*rows(1.0, vidur=5.0, dynamo_kv_router_64=0.5), *like])
    assert [bar.met for bar in checked] == [True, False, False, True]
    assert [bar.value for bar in checked] == [100_000.0, pytest.approx(500.0), None, pytest.approx(50.0)]
    assert str(checked[1]) == "NOT MET  bare_unhashed / vidur: 500 (bar: 600)"
    assert "not measured" in str(checked[2])
    assert not any(bar.met for bar in bars([]))


def test_spread_takes_nearest_ranks():
    assert spread([3.0, 1.0, 2.0]) == {"mean": 2.0, "p50": 2.0, "p99": 3.0}
    assert spread([5.0]) == {"mean": 5.0, "p50": 5.0, "p99": 5.0}
    hundred = spread([float(value) for value in range(101)])
    assert (hundred["p50"], hundred["p99"]) == (50.0, 99.0)
