import csv
import json

import numpy as np
import pytest

from tests.benchmarks.peer_stream import (
    VIDUR_DATE,
    as_stream,
    make_trace,
    pieces,
    read_npz,
    write_mooncake,
    write_npz,
    write_vidur,
)


def test_law_of_the_stream():
    trace = make_trace(20_000)
    assert len(trace) / trace.arrived_at_s[-1] == pytest.approx(40.0, rel=0.03)
    assert (trace.num_prompt_tokens.min(), trace.num_prompt_tokens.max()) == (500, 1500)
    assert (trace.num_output_tokens.min(), trace.num_output_tokens.max()) == (100, 300)


def test_no_two_blocks_share_a_hash():
    trace = make_trace(300)
    stream = as_stream(trace, 16)
    assert np.array_equal(np.diff(stream.hash_offsets), trace.num_prompt_tokens // 16)
    assert len(np.unique(stream.hashes)) == len(stream.hashes)


def test_same_seed_gives_the_same_stream_and_another_seed_another(tmp_path):
    write_npz(make_trace(50), tmp_path / "one.npz")
    again, other = make_trace(50), make_trace(50, seed=1)
    one = read_npz(tmp_path / "one.npz")
    for name in ("arrived_at_s", "num_prompt_tokens", "num_output_tokens", "hash_ids", "hash_offsets"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(again.arrived_at_s, other.arrived_at_s)


def test_mooncake_lines(tmp_path):
    trace = make_trace(40)
    write_mooncake(trace, tmp_path / "stream.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "stream.jsonl").read_text().splitlines()]
    assert [row["timestamp"] for row in rows] == pytest.approx(1e3 * trace.arrived_at_s, abs=1e-9)
    assert [row["input_length"] for row in rows] == trace.num_prompt_tokens.tolist()
    assert [row["output_length"] for row in rows] == trace.num_output_tokens.tolist()
    assert [len(row["hash_ids"]) for row in rows] == [-(-row["input_length"] // 64) for row in rows]
    ids = [one for row in rows for one in row["hash_ids"]]
    assert len(set(ids)) == len(ids)


def test_vidur_columns(tmp_path):
    trace = make_trace(40)
    write_vidur(trace, tmp_path / "stream.csv")
    with (tmp_path / "stream.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Date"] for row in rows} == {VIDUR_DATE}
    assert [float(row["Time"]) for row in rows] == trace.arrived_at_s.tolist()
    assert [int(row["PromptTokenCount"]) for row in rows] == trace.num_prompt_tokens.tolist()
    assert [int(row["CompletionTokenCount"]) for row in rows] == trace.num_output_tokens.tolist()


def test_pieces_follow_each_other_and_share_nothing():
    first, second = pieces(200, 256, 16, 100)
    assert second.arrived_at_s[0] > first.arrived_at_s[-1]
    both = np.concatenate([first.hashes, second.hashes])
    assert len(np.unique(both)) == len(both)
    rate_per_s = 200 / second.arrived_at_s[-1]
    assert rate_per_s == pytest.approx(5.0 * 256, rel=0.3)
