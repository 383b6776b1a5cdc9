"""Traces in our own format come back as they were, and other files are refused."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.workload import generator
from envs.workload.stored import load, save, workload
from envs.workload.trace import Trace


def same(one, other):
    for field in fields(Trace):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, np.ndarray):
            assert first.dtype == second.dtype
            assert first.tobytes() == second.tobytes()
        else:
            assert first == second


def generated(**options):
    return generator.workload(num_generated=300, num_tenants=3, **options)


@pytest.mark.parametrize(
    "trace",
    [
        generated().trace,
        generated(num_prefix_groups=0).trace,
        Trace(np.array([0.0, 0.1 + 0.2, 1e9]), np.array([1, 2, 3]), np.array([4, 5, 6]), num_skipped_lines=7),
        Trace(
            np.zeros(2),
            np.array([40, 16]),
            np.array([1, 1]),
            session_id=np.array([3, -1]),
            turn=np.array([2, 1]),
            hash_ids=np.array([5, 6, 7, 2**62]),
            hash_offsets=np.array([0, 3, 4]),
            source_row=np.array([9, 2]),
            hash_block_tokens=16,
            notes=("ä", "b"),
        ),
    ],
)
def test_round_trip(trace, tmp_path):
    path = tmp_path / "a.parquet"
    save(trace, path)
    same(load(path), trace)
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]
    save(trace, tmp_path / "b.parquet")
    assert path.read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_stored_trace_gives_the_stream_that_it_came_from(tmp_path):
    options = {
        "num_requests": 40,
        "start": "random",
        "rate_factor": 2.0,
        "part": "test",
        "max_model_len": 9000,
    }
    save(generated().trace, tmp_path / "a.parquet")
    streams = [
        generated(**options, slo_ttft_s=1.5),
        workload(str(tmp_path / "a.parquet"), **options, slo_ttft_s=1.5),
    ]
    for seed in (0, 1):
        for stream in streams:
            stream.reset(np.random.default_rng(seed))
        while not streams[0].exhausted:
            one, other = (repr(stream.pop()) for stream in streams)
            assert one == other
        assert streams[1].exhausted
    assert streams[0].notes == streams[1].notes


def test_what_is_no_stored_trace_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match="path is null: give the file of a trace"):
        workload()
    for make, message in (
        (lambda: None, "there is no such file"),
        (lambda: path.write_text("no parquet"), "[Pp]arquet"),
        (
            lambda: pq.write_table(pa.table({"arrived_at_s": [0.0]}), path),
            r"routegym\.trace is not in its metadata",
        ),
    ):
        make()
        with pytest.raises(ValueError, match=rf"a\.parquet: not a stored trace that can be used .*{message}"):
            workload(str(path))
    save(generated().trace, path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["turn"]), path)
    with pytest.raises(ValueError, match="turn"):
        load(path)
    lengths = pa.array([0] * 300)
    pq.write_table(table.set_column(1, "num_prompt_tokens", lengths), path)
    with pytest.raises(ValueError, match="num_prompt_tokens of row 0 is 0"):
        load(path)
