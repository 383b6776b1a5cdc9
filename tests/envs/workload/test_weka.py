import numpy as np
import pandas as pd
import pytest

from envs.cluster import DEFAULT_SLO
from envs.workload import weka
from envs.workload.weka import WekaSessions, load


def rows_of(session_id, lengths, ids, model="m", tools=100, system=28):
    return [
        {
            "session_id": session_id,
            "turn": turn,
            "model": model,
            "prompt_tokens": prompt,
            "output_tokens": output,
            "think_time_s": 7.0 * turn,
            "tool_tokens": tools,
            "system_tokens": system,
            "block_hashes": [(session_id << 32) + each for each in turn_ids],
        }
        for turn, ((prompt, output), turn_ids) in enumerate(zip(lengths, ids, strict=True), start=1)
    ]


GROWING = [(200, 60), (330, 0), (400, 10)], [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 9, 10, 11, 12]]


def written(tmp_path, *sessions):
    path = tmp_path / "weka.parquet"
    pd.DataFrame([row for session in sessions for row in session]).to_parquet(path)
    return path


def stream(sessions, **changes):
    settings = {"rate_per_s": 1.0, "max_turns": 8, "max_pause_s": 15.0, "max_model_len": 1000}
    settings |= {"num_requests": 3, "block_size": 16, "slo": DEFAULT_SLO}
    return WekaSessions(sessions, **{**settings, **changes})


def plan(workload, own_key=1 << 50, shared_key=1 << 60, first_turn=0):
    workload._stretches = [each for each in workload._stretches if each[1].start == first_turn]
    return workload.plan(np.random.default_rng(0), shared_key, own_key)


def test_turns_have_the_recorded_lengths_pauses_and_content(tmp_path):
    (session,) = load(written(tmp_path, rows_of(3, *GROWING)))
    made = plan(stream([session]))
    assert made.num_prompt_tokens == [200, 330, 400]
    assert made.num_output_tokens == [60, 1, 10]  # an empty answer counts as one token
    assert made.pause_s[1:] == [14.0, 15.0]  # 21 s cut to 15
    one, two, three = made.hashes
    assert len(one) == 260 // 16  # its answer is what the next prompt goes on with
    assert len(two) == 320 // 16  # its ids end there, and the next prompt has other ones
    assert np.array_equal(two[: len(one)], one)
    assert np.array_equal(three[:8], two[:8])  # what came before the change is still known
    assert not set(three[8:].tolist()) & set(two.tolist())
    assert len(three) == 384 // 16


def test_sessions_share_tools_and_system_prompt_and_nothing_else(tmp_path):
    other = rows_of(9, [(200, 5)], [[1, 2, 3]])
    unlike = rows_of(11, [(200, 5)], [[1, 2, 3]], model="another")
    sessions = load(written(tmp_path, rows_of(3, *GROWING), other, unlike))
    plans = [plan(stream([session]), own_key=(7 + i) << 50) for i, session in enumerate(sessions)]
    first, second, third = (each.hashes[0] for each in plans)
    assert np.array_equal(first[:8], second[:8])  # (100 + 28) / 64 = 2 ids of 4 blocks
    assert not set(first[8:].tolist()) & set(second.tolist())
    assert not set(first.tolist()) & set(third.tolist())
    again = plan(stream([sessions[0]]), own_key=99 << 50).hashes[0]
    assert np.array_equal(first[:8], again[:8])  # the same session once more has content of its own
    assert not set(first[8:].tolist()) & set(again.tolist())


def test_stretches_end_before_what_is_too_long_and_begin_anywhere(tmp_path):
    (session,) = load(written(tmp_path, rows_of(3, *GROWING)))
    assert len(plan(stream([session], max_model_len=405)).pause_s) == 2
    assert len(plan(stream([session], max_turns=1)).pause_s) == 1
    assert plan(stream([session]), first_turn=1).num_prompt_tokens == [330, 400]
    with pytest.raises(ValueError, match="no turn has at most max_model_len = 100 tokens"):
        stream([session], max_model_len=100)


def test_parts_are_disjoint_and_keep_forks_together(tmp_path):
    rng = np.random.default_rng(0)
    sessions, fork = [], [(1000 + turn, 50) for turn in range(5)]
    for number in range(40):
        lengths = [tuple(rng.integers(70, 900, 2).tolist()) for _ in range(6)]
        lengths = fork + lengths if number % 10 == 0 else lengths
        ids = [list(range(prompt // 64)) for prompt, _ in lengths]
        sessions.append(rows_of(number, lengths, ids))
    path = written(tmp_path, *sessions)
    parts = {part: load(path, part) for part in ("train", "tune", "test")}
    names = {part: {each.num_prompt_tokens.tobytes() for each in of} for part, of in parts.items()}
    assert sum(map(len, names.values())) == 40
    assert len(set.union(*names.values())) == 40
    holds_fork = [part for part, of in parts.items() if any(each.num_prompt_tokens[0] == 1000 for each in of)]
    assert len(holds_fork) == 1
    assert all(len(of) >= 4 for of in parts.values())


def test_streams_follow_from_the_seed_and_close_the_loop(tmp_path):
    path = written(tmp_path, rows_of(3, *GROWING), rows_of(5, *GROWING))
    workload = weka.workload(str(path), num_requests=20, max_model_len=1000)
    first = []
    for _ in range(2):
        workload.reset(np.random.default_rng(4))
        assert workload.num_requests == 20
        request = workload.pop()
        first.append((request.arrived_at_s, request.num_prompt_tokens, request.block_hashes.tolist()))
    assert first[0] == first[1]
    assert "2 sessions (all) in closed loop" in workload.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "dev"}, "part is 'dev': choose all, train, tune, test"),
        ({"block_size": 48}, "block_size 48 does not divide the 64-token content ids"),
        ({"max_pause_s": -1.0}, "max_pause_s is -1.0"),
        ({"rate_per_s": 0.0}, "rate_per_s is 0.0"),
        ({"max_turns": 0}, "max_turns is 0"),
    ],
)
def test_setting_out_of_range_is_named(tmp_path, changes, message):
    path = written(tmp_path, rows_of(3, *GROWING))
    with pytest.raises(ValueError, match=message):
        weka.workload(str(path), **changes)


def test_another_file_is_named(tmp_path):
    path = tmp_path / "other.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"other\.parquet: no trace of agent sessions"):
        weka.workload(str(path))
