import json
import re

import numpy as np
import pytest

from envs.workload import mooncake
from envs.workload.location import have, trace_path

ROWS = [
    {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 0, "input_length": 512, "output_length": 6, "hash_ids": [0]},
    {"timestamp": 3000, "input_length": 513, "output_length": 7, "hash_ids": [0, 2]},
]


def written(tmp_path, *lines):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, *map(json.dumps, ROWS))


def test_raw_rows(path):
    trace = mooncake.load(path, jitter_s=0.0)
    assert trace.arrived_at_s.tolist() == [0.0, 0.0, 3.0]
    assert trace.num_prompt_tokens.tolist() == [1000, 512, 513]
    assert trace.hash_ids.tolist() == [0, 1, 0, 0, 2]
    assert trace.notes == ("Mooncake trace.jsonl", "no jitter")


def test_jitter_is_seeded_bounded_and_noted(path):
    trace = mooncake.load(path, seed=5)
    jitter = np.random.default_rng(5).uniform(0.0, 3.0, 3)
    assert trace.arrived_at_s.tolist() == sorted((np.array([0.0, 0.0, 3.0]) + jitter).tolist())
    assert trace.arrived_at_s.tobytes() == mooncake.load(path, seed=5).arrived_at_s.tobytes()
    assert trace.arrived_at_s.tobytes() != mooncake.load(path, seed=6).arrived_at_s.tobytes()
    assert "jitter 3 s, seed 5" in trace.notes
    with pytest.raises(ValueError, match="jitter_s is -1"):
        mooncake.load(path, jitter_s=-1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: Expecting property name"),
        ("[1, 2]", "line 2: not a JSON object"),
        (json.dumps({"timestamp": 0, "input_length": 5}), "line 2: no hash_ids, output_length"),
        (json.dumps({**ROWS[0], "timestamp": -3}), "timestamp must be a number from 0, not -3"),
        (json.dumps({**ROWS[0], "timestamp": "3"}), "timestamp must be a number from 0, not '3'"),
        (json.dumps({**ROWS[0], "input_length": 0}), "input_length must be a whole number from 1, not 0"),
        (
            json.dumps({**ROWS[0], "output_length": 1.5}),
            "output_length must be a whole number from 1, not 1.5",
        ),
        (json.dumps({**ROWS[0], "hash_ids": [0]}), "1 hash_ids for 1000 tokens"),
        (json.dumps({**ROWS[0], "hash_ids": [0, -1]}), "hash_ids must be a list of whole numbers"),
    ],
)
def test_bad_line_is_named_or_skipped_and_counted(tmp_path, line, message):
    path = written(tmp_path, json.dumps(ROWS[0]), line, json.dumps(ROWS[2]))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        mooncake.load(path)
    assert str(path) in str(error.value)
    assert line[:20] in str(error.value)
    trace = mooncake.load(path, on_bad_line="skip")
    assert (len(trace), trace.num_skipped_lines) == (2, 1)
    assert "1 malformed lines skipped" in trace.notes


@pytest.mark.parametrize("jitter_s", [0.0, 3.0])
def test_line_out_of_order_is_named_or_skipped_and_counted(tmp_path, jitter_s):
    path = written(tmp_path, *(json.dumps({**ROWS[0], "timestamp": at}) for at in (6000, 3000, 9000)))
    with pytest.raises(ValueError, match=r"trace\.jsonl, line 2: out of order, it is earlier than line 1"):
        mooncake.load(path, jitter_s=jitter_s)
    trace = mooncake.load(path, jitter_s=jitter_s, on_bad_line="skip")
    assert (len(trace), trace.num_skipped_lines) == (2, 1)


def test_line_that_is_not_utf8_is_named_or_skipped_and_counted(tmp_path):
    path = tmp_path / "trace.jsonl"
    row = json.dumps(ROWS[0]).encode()
    path.write_bytes(row + b"\n" + row.replace(b"timestamp", b"timest\xe9mp") + b"\n" + row + b"\n")
    with pytest.raises(ValueError, match=r"trace\.jsonl, line 2: not UTF-8 text \(byte 0xe9\)"):
        mooncake.load(path)
    trace = mooncake.load(path, on_bad_line="skip")
    assert (len(trace), trace.num_skipped_lines) == (2, 1)


def test_source_row_is_the_place_in_the_file(path):
    jitter = np.random.default_rng(0).uniform(0.0, 3.0, 3)
    assert jitter[1] < jitter[0]
    assert mooncake.load(path, seed=0).source_row.tolist() == [1, 0, 2]


def test_file_without_requests(tmp_path):
    with pytest.raises(ValueError, match="holds no request"):
        mooncake.load(written(tmp_path, "", ""))
    with pytest.raises(ValueError, match="holds no request \\(1 malformed"):
        mooncake.load(written(tmp_path, "nonsense"), on_bad_line="skip")
    with pytest.raises(ValueError, match="choose 'error' or 'skip'"):
        mooncake.load(written(tmp_path, "nonsense"), on_bad_line="ignore")


def test_absent_default_file_is_an_error_or_a_noted_stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set ROUTEGYM_TRACES to the folder that holds mooncake/"):
        mooncake.workload()
    stream = mooncake.workload(on_missing="generate", num_requests=100)
    assert "stands in for the absent Mooncake conversation trace" in stream.notes
    with pytest.raises(FileNotFoundError):
        mooncake.workload(str(tmp_path / "mistyped.jsonl"), on_missing="generate")
    with pytest.raises(ValueError, match="on_missing is 'guess'"):
        mooncake.workload(on_missing="guess")


@pytest.mark.skipif(not have(mooncake.DEFAULT_FILE), reason="trace absent")
def test_published_statistics():
    trace = mooncake.load(trace_path(mooncake.DEFAULT_FILE))
    assert len(trace) == 12031
    assert trace.rate_per_s == pytest.approx(3.40, abs=0.01)
    assert np.percentile(trace.num_prompt_tokens, [50, 90]).tolist() == [6909, 27367]
    assert np.percentile(trace.num_output_tokens, [50, 90]).tolist() == [350, 597]


@pytest.mark.skipif(not have(mooncake.DEFAULT_FILE), reason="trace absent")
def test_workload_at_a_wanted_rate():
    stream = mooncake.workload(rate_per_s=10.0, max_model_len=16384, part="train", num_repeats=2)
    assert stream.trace.rate_per_s == pytest.approx(10.0)
    assert (stream.trace.num_prompt_tokens + stream.trace.num_output_tokens).max() <= 16384
    with pytest.raises(ValueError, match="choose one"):
        mooncake.workload(rate_per_s=10.0, rate_factor=2.0)
    with pytest.raises(ValueError, match="part is 'half'"):
        mooncake.workload(part="half")
