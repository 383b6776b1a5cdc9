import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from envs.workload import servegen
from envs.workload.servegen import LENGTHS, WINDOWS, draw, load

LEVELS = [0.0, 0.5, 1.0]


def window(client, at_s, rate, law, shape, model="m"):
    row = {"category": "language", "model": model, "client_id": client, "window_s": at_s, "rate_rps": rate}
    return row | {"cv": None, "pattern": law, "arg1": shape, "arg2": None}


def lengths(client, at_s, prompt, output, model="m"):
    row = {"model": model, "client_id": client, "window_s": at_s}
    return [
        row | {"field": "input_tokens", "quantiles": prompt},
        row | {"field": "output_tokens", "quantiles": output},
    ]


@pytest.fixture
def folder(tmp_path):
    windows = [
        window(0, 0, 3.0, "Gamma", 0.25),
        window(1, 0, 1.0, "Weibull", 0.5),
        window(2, 0, 5.0, "Gamma", 1.0),  # of which no lengths are known
        window(0, 600, 0.0, None, None),
        window(1, 600, 2.0, None, None),  # a rate without a law
    ]
    known = [
        *lengths(0, 0, [100.0, 200.0, 300.0], [10.0, 10.0, 10.0]),
        *lengths(1, 21600, [5000.0, 5000.0, 5000.0], [1.0, 2.0, 3.0]),
    ]
    pd.DataFrame(windows).to_parquet(tmp_path / WINDOWS)
    table = pa.Table.from_pandas(pd.DataFrame(known))
    pq.write_table(
        table.replace_schema_metadata({b"quantile_levels": json.dumps(LEVELS)}), tmp_path / LENGTHS
    )
    return tmp_path


def test_clients_are_read_window_by_window(folder):
    clients = load(folder, "m")
    assert [[each.tenant for each in window] for window in clients.windows] == [[0, 1], [1]]
    assert clients.num_without_lengths == 1
    assert clients.windows[1][0].law == "Gamma"
    assert clients.windows[1][0].shape == 1.0  # Poisson
    assert [len(load(folder, "m", start, stop).windows) for start, stop in ((0, 600), (600, 1200))] == [1, 1]


def test_rates_burstiness_and_lengths_are_the_recorded_ones(folder):
    clients = load(folder, "m", 0, 600)
    trace = draw(np.random.default_rng(0), clients, 40_000, rate_per_s=8.0)
    assert trace.rate_per_s == pytest.approx(8.0)
    assert np.bincount(trace.tenant) / 40_000 == pytest.approx([0.75, 0.25], abs=0.02)
    for tenant, law in ((0, stats.gamma(0.25)), (1, stats.weibull_min(0.5))):
        gaps = np.diff(trace.arrived_at_s[trace.tenant == tenant])
        assert gaps.std() / gaps.mean() == pytest.approx(law.std() / law.mean(), rel=0.05)
        assert stats.kstest(gaps / gaps.mean(), lambda x, law=law: law.cdf(x * law.mean())).statistic < 0.02
    prompts = trace.num_prompt_tokens[trace.tenant == 0]
    assert np.percentile(prompts, [0, 25, 50, 100]) == pytest.approx([100, 150, 200, 300], abs=2)
    assert set(trace.num_output_tokens[trace.tenant == 1]) == {1, 2, 3}
    assert len(trace.hash_ids) == 0


def test_streams_of_a_seed_are_the_same_and_of_two_are_not(folder):
    stream = servegen.workload(str(folder), model="m", seed=1, num_requests=50)
    drawn = []
    for seed in (0, 0, 1):
        stream.reset(np.random.default_rng(seed))
        drawn.append([stream.pop().arrived_at_s for _ in range(50)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert "ServeGen m, 2 windows of 600 s, 1 clients without lengths left out" in stream.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "n"}, "model is 'n': choose one of m"),
        (
            {"window_start_s": 1200.0},
            r"no client of m sends in \[1200, inf\) s: the trace runs from 0 to 600",
        ),
        ({"rate_per_s": 0.0}, "rate_per_s is 0.0"),
        ({"num_requests": 0}, "num_requests is 0"),
        ({"max_model_len": 5}, "every request is longer than max_model_len = 5"),
    ],
)
def test_setting_out_of_range_is_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        servegen.workload(str(folder), **{"model": "m", "num_requests": 20, **changes})


def test_extract_without_its_levels_is_named(folder):
    pd.read_parquet(folder / LENGTHS).to_parquet(folder / LENGTHS)
    with pytest.raises(ValueError, match="quantile_levels is not in its metadata"):
        load(folder, "m")
