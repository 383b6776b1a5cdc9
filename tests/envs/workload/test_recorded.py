"""Recordings as workloads; tests/agents/test_recording.py compares ledgers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.cluster import InstanceTraits, Request, Slo
from envs.feedback import Feedback
from envs.live.recorder import Recorder
from envs.live.recording import RecordingError
from envs.observation import observation_space
from envs.workload.recording import load, workload
from envs.workload.replay import Replay

BLOCK = 4
TRAITS = [InstanceTraits("a", 100, BLOCK, 8, 512, 2048, True, 1000.0, 0.01)]
HALF = np.full(1, 0.5)
OUTCOME = Feedback(0, 0.5, 0, 9, 5, 0, 0, 10.0, 0.5, 0.1, 1.0, True, 0, "")
BLANK = {name: np.zeros(space.shape, space.dtype) for name, space in observation_space(1).items()}


def record(directory, *episodes, **options):
    """Each episode is a list of requests, in the order in which they were decided; all but the last end."""
    with Recorder(directory, TRAITS, 1, "it@1", **options) as recorder:
        for seed, requests in enumerate(episodes):
            recorder.begin_episode(seed)
            for request in requests:
                recorder.decided(request, BLANK, 0, HALF, HALF, request.arrived_at_s)
            if seed < len(episodes) - 1:
                recorder.learned([OUTCOME], 99.0, True)
    return str(directory)


def request(number, prompt=9, output=5, hashes=(), **changes):
    blocks = np.array(hashes, np.int64)
    plain = Request(number, 10.0 + number, prompt, output, blocks, number, number % 5 + 1, number % 2)
    return replace(plain, **changes)


def popped(stream, seed=0):
    stream.reset(np.random.default_rng(seed))
    requests = []
    while not stream.exhausted:
        requests.append(stream.pop())
    return requests


def shared(requests):
    """Which blocks are the same content, whatever their hashes are."""
    hashes = np.concatenate([one.block_hashes for one in requests])
    return [np.flatnonzero(hashes == value)[0] for value in hashes]


PLAIN = [
    request(0, 9, 5, [11, 12]),
    request(1, 9, 5, [11, 13]),
    request(2, 8, 4, []),
    request(3, 9, 2, [11, 12]),
]


def test_requests_come_as_they_were(tmp_path):
    stream = workload(record(tmp_path, PLAIN, PLAIN[:1]))
    assert type(stream) is Replay
    assert (stream.block_size, stream.num_requests) == (BLOCK, 4)
    assert stream.notes == (f"recording {tmp_path}, episode 0",)
    again = popped(stream)
    assert [one.arrived_at_s for one in again] == [0.0, 1.0, 2.0, 3.0]  # from the first
    for name in (
        "request_id",
        "num_prompt_tokens",
        "num_output_tokens",
        "session_id",
        "turn",
        "tenant",
        "slo",
    ):
        assert [getattr(one, name) for one in again] == [getattr(one, name) for one in PLAIN]
    assert [len(one.block_hashes) for one in again] == [2, 2, 0, 2]
    assert shared(again) == shared(PLAIN)


def test_requests_keep_model_objective_and_priority(tmp_path):
    recorded = [
        request(0, model="llama"),
        request(1, slo=Slo(0.5, 0.05), priority=2),
        request(2, priority=-1),
    ]
    again = popped(workload(record(tmp_path, recorded)))
    assert [one.model for one in again] == ["llama", "", ""]
    assert [one.slo for one in again] == [Slo(), Slo(0.5, 0.05), Slo()]
    assert [one.priority for one in again] == [0, 2, -1]


def test_request_sent_again_comes_once_at_its_arrival(tmp_path):
    recorded = [PLAIN[0], PLAIN[1], PLAIN[0], PLAIN[2], PLAIN[0]]
    assert [one.session_id for one in popped(workload(record(tmp_path, recorded)))] == [0, 1, 2]


ANSWERED = [
    request(0, 9, 8, [11, 12, 13, 14]),  # two blocks of the prompt, then two with the answer
    request(1, 17, 3, [11, 12, 13, 14, 15]),
    request(2, 9, 3, [21, 22, 23]),
]


def test_content_of_answers_is_kept(tmp_path):
    again = popped(workload(record(tmp_path, ANSWERED)))
    assert [len(one.block_hashes) for one in again] == [4, 5, 3]
    assert shared(again) == shared(ANSWERED)
    assert all(value > 0 for one in again for value in one.block_hashes)


def test_clipped_requests_know_no_more_than_is_left(tmp_path):
    again = popped(workload(record(tmp_path, ANSWERED), max_prompt_tokens=10, max_output_tokens=4))
    assert [(one.num_prompt_tokens, one.num_output_tokens) for one in again] == [(9, 4), (10, 3), (9, 3)]
    assert [len(one.block_hashes) for one in again] == [3, 2, 3]  # 13 // 4, a clipped prompt, 12 // 4
    assert again[0].block_hashes[:2].tolist() == again[1].block_hashes.tolist()


def test_repeats_share_nothing(tmp_path):
    stream = workload(record(tmp_path, ANSWERED), num_repeats=3)
    again = popped(stream)
    assert len(again) == 9
    first, second, third = (
        set(np.concatenate([o.block_hashes for o in again[k : k + 3]])) for k in (0, 3, 6)
    )
    assert not first & second
    assert not first & third
    assert not second & third
    assert shared(again[3:6]) == shared(ANSWERED)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_stretch_has_its_own_blocks(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    recorded = []
    for number in range(int(rng.integers(2, 20))):
        prompt, output = (int(n) for n in rng.integers(1, 30, 2))
        hashes = rng.integers(1, 6, int(rng.integers(0, (prompt + output) // BLOCK + 1)))
        recorded.append(request(number, prompt, output, hashes, priority=int(rng.integers(2))))
    path = record(tmp_path_factory.mktemp("recorded"), recorded)
    stream = workload(path, num_requests=int(rng.integers(1, len(recorded) + 1)), start="random")
    again = popped(stream, seed)
    place = stream.first
    part = recorded[place : place + len(again)]
    for name in ("num_prompt_tokens", "num_output_tokens", "priority", "session_id"):
        assert [getattr(one, name) for one in again] == [getattr(one, name) for one in part]
    assert shared(again) == shared(part)


def test_episode_is_chosen(tmp_path):
    path = record(tmp_path, PLAIN[:1], PLAIN[1:])
    assert "which broke off" in workload(path, episode=1).notes
    assert "which broke off" not in workload(path).notes
    assert (len(load(path).trace), len(load(path, 1).trace)) == (1, 3)
    with pytest.raises(
        RecordingError, match=r"has no decision of episode 2: choose of its episodes \(0, 1\)"
    ):
        workload(path, episode=2)


def test_bad_parts_are_named_or_skipped_and_counted(tmp_path):
    path = record(tmp_path, PLAIN, rows_per_part=1)
    (tmp_path / "decisions" / "000001.parquet").write_bytes(b"PAR1")
    (tmp_path / "decisions" / "000002.parquet").unlink()
    (tmp_path / "decisions" / ".000009.parquet.part").write_bytes(b"of a writer that was killed")
    with pytest.raises(RecordingError, match=r"000001.parquet: not a whole part of a recording"):
        workload(path)
    stream = workload(path, on_bad_part="skip")
    assert stream.notes[1:] == ("which broke off", "2 unreadable parts skipped")
    assert [one.session_id for one in popped(stream)] == [0, 3]


def test_what_is_no_recording_is_named(tmp_path):
    with pytest.raises(ValueError, match="path is null: give the directory of a recording"):
        workload()
    with pytest.raises(RecordingError, match=r"holds no recording \(recording.json is missing\)"):
        workload(str(tmp_path))
    path = record(tmp_path / "empty")
    with pytest.raises(RecordingError, match=r"choose of its episodes \(none\)"):
        workload(path)
