import re

import numpy as np
import pytest

from envs.workload import azure
from envs.workload.location import have, trace_path

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def written(tmp_path, *lines):
    path = tmp_path / "azure.csv"
    path.write_bytes("\n".join(lines).encode())  # no newline at the end, as in the original
    return path


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_naive_times_keep_seven_digits(tmp_path, end):
    path = written(
        tmp_path, HEADER, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.0319601,3180,8" + end
    )
    trace = azure.load(path)
    assert trace.arrived_at_s.tolist() == [0.0, 0.0520001]
    assert trace.num_prompt_tokens.tolist() == [4808, 3180]
    assert trace.num_output_tokens.tolist() == [10, 8]


def test_zoned_times_and_further_columns(tmp_path):
    path = written(
        tmp_path,
        "\ufeffTIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
        "2024-05-10 23:59:59.500000+00:00,1,7,8",
        "2024-05-11 00:00:01+00:00,0,9,10",
        "2024-05-11 01:00:02+01:00,0,9,10",
    )
    trace = azure.load(path)
    assert trace.arrived_at_s.tolist() == [0.0, 1.5, 2.5]
    assert trace.num_prompt_tokens.tolist() == [7, 9, 9]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yesterday,5,6", "line 3: TIMESTAMP must look like 2023-11-16 18:17:03.9799600, not 'yesterday'"),
        ("2023-13-16 18:17:03,5,6", "line 3: month must be in 1..12"),
        ("2023-11-16 18:17:04,0,6", "line 3: ContextTokens must be a whole number from 1, not 0"),
        ("2023-11-16 18:17:04,5,x", "line 3: GeneratedTokens must be a whole number from 1, not 'x'"),
        ("2023-11-16 18:17:04,5", "line 3: 2 cells where the header has 3"),
        ("2023-11-16 18:17:02,5,6", "line 3: out of order, it is earlier than line 2"),
    ],
)
def test_bad_line_is_named_or_skipped_and_counted(tmp_path, line, message):
    path = written(tmp_path, HEADER, "2023-11-16 18:17:03,5,6", line, "2023-11-16 18:17:05,5,6")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        azure.load(path)
    assert line in str(error.value)
    trace = azure.load(path, on_bad_line="skip")
    assert (trace.arrived_at_s.tolist(), trace.num_skipped_lines) == ([0.0, 2.0], 1)


def test_header_is_checked(tmp_path):
    with pytest.raises(ValueError, match="line 1: no column GeneratedTokens"):
        azure.load(written(tmp_path, "TIMESTAMP,ContextTokens", "2023-11-16 18:17:03,5"))
    path = tmp_path / "azure.csv"
    path.write_bytes(b"TIMESTAMP,Context\xe9\n")
    for on_bad_line in ("error", "skip"):
        with pytest.raises(ValueError, match=r"azure\.csv, line 1: the header is not UTF-8 text \(byte 0xe9"):
            azure.load(path, on_bad_line=on_bad_line)


def test_line_that_is_not_utf8_is_named_or_skipped_and_counted(tmp_path):
    path = tmp_path / "azure.csv"
    good = b"2023-11-16 18:17:03,5,6"
    path.write_bytes(b"\n".join([HEADER.encode(), good, b"2023-11-16 18:17:04,5,\xff", good]))
    with pytest.raises(ValueError, match=r"azure\.csv, line 3: not UTF-8 text \(byte 0xff\)"):
        azure.load(path)
    trace = azure.load(path, on_bad_line="skip")
    assert (len(trace), trace.num_skipped_lines) == (2, 1)


def test_absent_default_file_is_an_error_or_a_noted_stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ROUTEGYM_TRACES"):
        azure.workload()
    stream = azure.workload(on_missing="generate")
    assert "stands in for the absent Azure 2023 code trace" in stream.notes
    assert np.percentile(stream.trace.num_prompt_tokens, 50) == pytest.approx(1469, rel=0.05)
    with pytest.raises(ValueError, match="on_missing is 'guess'"):
        azure.workload(on_missing="guess")


@pytest.mark.skipif(not have(azure.DEFAULT_FILE), reason="trace absent")
def test_published_statistics():
    trace = azure.load(trace_path(azure.DEFAULT_FILE))
    assert len(trace) == 8819
    assert trace.rate_per_s == pytest.approx(2.57, abs=0.01)
    assert np.median(trace.num_prompt_tokens) == 1469
    gaps = np.diff(trace.arrived_at_s)
    assert gaps.std() / gaps.mean() == pytest.approx(13.2, abs=0.1)
    assert azure.workload(rate_factor=2.0, num_requests=50).num_requests == 50
